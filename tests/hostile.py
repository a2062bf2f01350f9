"""Responses that mean harm: by their size, by what they ask to be computed, by what they might get run or written.

None of them is a right answer to any of GOLDS. Big ones are made here and not stored.
"""

GOLDS = ("7", r"\frac{1}{2}", "(1,2)", "x=5")

MB = 1_000_000
TOWER = "9^{9^{9^{9^{9}}}}"


def boxed(inside: str) -> str:
    return rf"so the answer is \boxed{{{inside}}}."


def nested(opening: str, middle: str, closing: str, n: int) -> str:
    return opening * n + middle + closing * n


TOWERS = {
    "tower_boxed": boxed(TOWER),
    "tower_dollars": f"it is ${TOWER}$",
    "tower_display": rf"\[ {TOWER} \]",
    "tower_plain": "the answer is 9^9^9^9^9",
    "tower_python": "the answer is 9**9**9**9**9",
    "tower_plain_parentheses": "the answer is (9^(9^(9^9)))",
    "tower_superscripts": boxed("9⁹⁹⁹⁹⁹⁹⁹⁹⁹"),
    "tower_negative": boxed(f"-{TOWER}"),
    "tower_negative_exponent": boxed("9^{-9^{9^{9^{9}}}}"),
    "tower_fraction": boxed(rf"\frac{{1}}{{{TOWER}}}"),
    "tower_of_fractions": boxed(r"\left(\frac{9}{8}\right)^{9^{9^{9}}}"),
    "tower_of_decimals": boxed("1.000001^{9^{9^{9}}}"),
    "tower_float": boxed("2.5^{10^{11}}"),
    "tower_difference": boxed(f"{TOWER}-{TOWER}+8"),
    "tower_root": boxed(rf"\sqrt[{TOWER}]{{2}}"),
    "tower_log": boxed(rf"\log_{{2}}({TOWER})"),
    "tower_sin": boxed(rf"\sin({TOWER})"),
    "tower_equation": boxed(f"x={TOWER}"),
    "tower_tuple": boxed(f"(1,{TOWER})"),
    "tower_set": boxed(rf"\{{{TOWER}, 1\}}"),
    "tower_interval": boxed(rf"[1,{TOWER}) \cup (2, \infty)"),
    "tower_percent": boxed(rf"{TOWER}\%"),
    "tower_modest": boxed("3^{20000000}"),  # swells and ends
    "tower_just_printable": boxed("10^{5000}"),
    "tower_of_variables": boxed("x^{y^{x^{y^{x^{y}}}}}"),
    "power_of_a_sum": boxed("(a+b+c+d+e)^{5000}"),
    "power_of_a_sum_huge": boxed("(x+1)^{99999999999}"),
}

DEEP = {
    "braces": boxed(nested("{", "7", "}", MB)),
    "braces_open": r"\boxed{" + "{" * MB,
    "braces_shut": r"\boxed{" + "}" * MB,
    "parentheses": boxed(nested("(", "8", ")", MB)),
    "parentheses_few": boxed(nested("(", "8", ")", 300)),
    "parentheses_plain": "the answer is " + nested("(", "8", ")", 50_000),
    "parentheses_open": "the answer is " + "(" * MB,
    "brackets": boxed(nested("[", "8", "]", MB)),
    "left_right": boxed(nested(r"\left(", "8", r"\right)", 50_000)),
    "frac": boxed(nested(r"\frac{1}{", "8", "}", MB // 8)),
    "frac_thousand": boxed(nested(r"\frac{1}{1+", "8", "}", 1000)),
    "frac_bare": boxed(r"\frac" * (MB // 5)),
    "sqrt": boxed(nested(r"\sqrt{", "8", "}", MB // 7)),
    "sqrt_hundred": boxed(nested(r"\sqrt{1+", "8", "}", 100)),
    "sqrt_bare": boxed(r"\sqrt" * (MB // 5)),
    "abs": boxed(nested("|", "8", "|", 10_000)),
    "floor": boxed(nested(r"\lfloor ", "8.5", r"\rfloor ", 10_000)),
    "boxes": nested(r"\boxed{", "8", "}", 100_000),
    "boxes_open": r"\boxed{" * 100_000,
    "boxes_many": r"\boxed{8} " * 100_000,
    "text": boxed(nested(r"\text{", "8", "}", 100_000)),
    "sines": boxed(nested(r"\sin(", "8", ")", 2000)),
    "factorials": boxed("3" + "!" * 1000),
    "primes": boxed("f" + "'" * MB),
    "minuses": boxed("-" * MB + "8"),
    "subscripts": boxed(nested("x_{", "8", "}", 10_000)),
    "superscripts": boxed(nested("x^{", "8", "}", 10_000)),
    "environments": boxed(nested(r"\begin{pmatrix}", "8", r"\end{pmatrix}", 10_000)),
}

LONG = {
    "digits": "1" * MB,
    "digits_boxed": boxed("1" * MB),
    "digits_dollars": f"${'1' * MB}$",
    "digits_fraction": boxed(rf"\frac{{{'1' * 500_000}}}{{{'3' * 500_000}}}"),
    "digits_decimal": boxed("0." + "3" * MB),
    "digits_thousands": boxed("1" + ",000" * (MB // 4)),
    "digits_5000": boxed("1" * 5000),
    "backslashes": "\\" * MB,
    "backslashes_boxed": boxed("\\" * MB),
    "dollars": "$" * MB,
    "dollars_apart": "$ " * (MB // 2),
    "spaces": " " * MB,
    "spaces_boxed": boxed(" " * MB),
    "newlines": "\n" * MB,
    "commas": boxed("," * MB),
    "list": boxed(",".join("1" for _ in range(MB // 2))),
    "sum": boxed("1+" * (MB // 2) + "1"),
    "sum_plain": "the answer is " + "1+" * (MB // 2) + "1",
    "sum_2000": boxed("1+" * 2000 + "1"),
    "product": boxed("2*" * (MB // 2) + "2"),
    "product_times": boxed(r"2\times " * 20_000 + "2"),
    "letters": boxed("a" * MB),
    "letters_bare": "a" * MB,
    "equations": boxed("1=" * 50_000 + "8"),
    "inequalities": boxed("x<" * 5_000 + "8"),
    "points": "." * MB,
    "zeros": boxed("0" * MB + "8"),
    "ampersands": boxed("&" * MB),
    "percent": "%" * MB,
    "pipes": boxed("|" * MB),
    "colons": "answer:" * (MB // 7),
}

COMPUTE = {
    "factorial": boxed("999999999!"),
    "factorial_tower": boxed("9!!!!!!!"),
    "factorial_of_factorial": boxed("(((9!)!)!)!"),
    "binomial": boxed(r"\binom{9999999999}{4999999999}"),
    "binomial_of_binomial": boxed(r"\binom{\binom{9999}{4999}}{\binom{999}{499}}"),
    "sum_infinite": boxed(r"\sum_{n=1}^{\infty} \frac{\sin(n^n)}{n^{n!}}"),
    "sum_nested": boxed(r"\sum_{a=1}^{99999}\sum_{b=1}^{99999}\sum_{c=1}^{99999} a^{b^{c}}"),
    "sum_long": boxed(r"\sum_{n=1}^{999999999999} \frac{1}{n}"),
    "product_infinite": boxed(r"\prod_{n=1}^{\infty} (1+\frac{1}{n^n})"),
    "product_long": boxed(r"\prod_{n=1}^{9999999} n^{n}"),
    "integral": boxed(r"\int_{0}^{\infty} e^{-x^{x}} \sin(x^{7}) \log(x) dx"),
    "integral_nested": boxed(r"\int_{0}^{1}\int_{0}^{1}\int_{0}^{1} \frac{\sin(xyz)}{x^{y}+z^{x}} dx dy dz"),
    "integral_of_powers": boxed(r"\int \frac{x^{50}+1}{x^{99}+x+1} dx"),
    "limit": boxed(r"\lim_{x \to 0} \frac{\sin(\sin(\sin(\sin(x))))-x}{\tan(\tan(\tan(x)))-x^{x^{x}}}"),
    "derivative": boxed(r"\frac{d^{999}}{dx^{999}} \sin(x^{x^{x}})"),
    "matrix": boxed(r"\begin{pmatrix}" + r"\\".join("&".join(["9"] * 100) for _ in range(100)) + r"\end{pmatrix}"),
    "determinant": boxed(
        r"\det\begin{pmatrix}"
        + r"\\".join("&".join(f"x_{{{i}}}^{{{j}}}" for j in range(12)) for i in range(12))
        + r"\end{pmatrix}"
    ),
    "matrix_power": boxed(r"\begin{pmatrix}1&x\\y&2\end{pmatrix}^{99999999}"),
    "matrix_inverse": boxed(
        r"\begin{pmatrix}"
        + r"\\".join("&".join(f"a_{{{i}{j}}}" for j in range(9)) for i in range(9))
        + r"\end{pmatrix}^{-1}"
    ),
    "set": boxed(r"\{" + ",".join(map(str, range(20_000))) + r"\}"),
    "intervals": boxed(r" \cup ".join(f"({2 * n},{2 * n + 1})" for n in range(2000))),
    "intervals_of_roots": boxed(r" \cup ".join(rf"(\sqrt{{{n}}},\sqrt{{{n + 1}}}]" for n in range(200))),
    "set_without": boxed(r"\mathbb{R} \setminus \{" + ",".join(map(str, range(500))) + r"\}"),
    "tuple": boxed("(" + ",".join(map(str, range(20_000))) + ")"),
    "degree": boxed("x^{1000000000}-1"),
    "degree_sum": boxed("+".join(f"{n}x^{{{n}}}" for n in range(2000))),
    "degree_fraction": boxed(r"\frac{x^{1000000}-1}{x-1}"),
    "equation_50": boxed("x^{50}+3x^{49}-7x^{3}+x=11"),
    "equation_trigonometric": boxed(r"\sin(x)^{20}+\cos(x^{2})=\tan(x^{x})"),
    "inequality_50": boxed("x^{50}-3x^{49}+7x^{3}-x<11"),
    "inequality_huge": boxed("x^{10000000000}<11"),
    "gcd": boxed(r"\gcd(10^{10^{7}}, 9^{10^{7}})"),
    "lcm": boxed(r"\operatorname{lcm}(2^{99999999}+1, 3^{99999999}+1)"),
    "mod": boxed(r"7^{10^{9}} \bmod (10^{10^{8}}+7)"),
    "mod_tower": boxed(r"9^{9^{9^{9}}} \pmod{7}"),
    "prime_factor": boxed(r"\sqrt{" + "1234567891" * 30 + "}"),
    "root_of_digits": boxed(r"\sqrt[3]{" + "7" * 20_000 + "}"),
    "float_exponent": boxed("1e999999999"),
    "float_exponent_plain": "the answer is 1e999999999",
    "float_exponent_times": boxed(r"1.5 \times 10^{999999999}"),
    "float_exponent_negative": boxed(r"1.5 \cdot 10^{-999999999}"),
    "cancel": boxed(r"\frac{(x+y+z)^{300}-(x-y)^{300}}{(x+y+z)^{299}-(x-y)^{299}}"),
    "radicals": boxed("+".join(rf"\sqrt{{{n}+\sqrt{{{n + 1}}}}}" for n in range(2, 40))),
    "trigonometry": boxed(r"\cdot ".join(rf"\sin^{{{n}}}({n}x)\cos^{{{n}}}({n}x)" for n in range(1, 30))),
    "logarithms": boxed("+".join(rf"\log_{{{n}}}({n + 1}^{{{n}}}+x)" for n in range(2, 200))),
    "symbols": boxed("+".join(f"a_{{{n}}}" for n in range(5000))),
    "powers_of_i": boxed("i^{i^{i^{i^{i^{i^{i^{i}}}}}}}"),
    "swell": boxed(r"\left(1+\frac{1}{10^{6}}\right)^{10^{6}}"),
    "swell_fibonacci": boxed(r"\left(\frac{1+\sqrt{5}}{2}\right)^{99999}-\left(\frac{1-\sqrt{5}}{2}\right)^{99999}"),
}

TEXT = {
    "right_to_left": boxed("\u202e7\u202c1"),
    "full_width": boxed("８＋８"),
    "arabic_digits": boxed("٨٩"),
    "combining": boxed("8" + "\u0301" * 100_000),
    "zero_width": boxed("\u200b".join("1234567")),
    "homoglyphs": "the аnswer is \\Ьохеd{8}",
    "unicode_fractions": boxed("½" * 1000),
    "unicode_superscripts": boxed("8" + "⁹" * 10_000),
    "emoji": boxed("💥" * 100_000),
    "highest": boxed("\U0010ffff\ufffe\uffff"),
    "line_separators": boxed("8\u2028\u2029\x85\x0b\x0c"),
    "null_bytes": boxed("8\x00\x00"),
    "null_bytes_only": "\x00" * MB,
    "control": boxed("".join(map(chr, range(32)))),
    "ansi": boxed("\x1b[2J\x1b[31m8\x1b]0;owned\x07"),
    "byte_order_mark": "\ufeff" + boxed("\ufeff8"),
    "empty": "",
    "empty_box": r"\boxed{}",
    "empty_boxes": r"\boxed{}" * 50_000,
    "half_open_box": r"\boxed{8",
    "half_open_frac": r"\boxed{\frac{8}",
    "half_open_dollar": "$8",
    "half_open_display": r"\[ 8 +",
    "half_open_environment": r"\boxed{\begin{pmatrix} 8 & 9 \\",
    "half_open_left": r"\boxed{\left( 8",
    "box_without_braces": r"\boxed 8",
    "boxed_word_only": r"\boxed",
    "shut_before_open": "}}}}8{{{{",
    "unknown_command": boxed(r"\undefinedcommand{8}\another[8]{9}"),
    "definition": boxed(r"\def\x{\x\x}\x 8"),
    "newcommand": r"\newcommand{\a}{\a\a}" + boxed(r"\a"),
    "input": boxed(r"\input{/etc/passwd}"),
    "write18": boxed(r"\immediate\write18{touch PWNED}"),
    "csname": boxed(r"\csname boxed\endcsname{8}"),
    "infinity": boxed(r"\infty-\infty"),
    "division_by_zero": boxed(r"\frac{8}{0}"),
    "nan": boxed(r"\text{nan}"),
    "minus_zero_power": boxed("0^{-1}"),
}

SHELL = "__import__('os').system('touch PWNED')"
CODE = {
    "code_boxed": boxed(SHELL),
    "code_dollars": f"${SHELL}$",
    "code_plain": f"the answer is {SHELL}",
    "code_text": boxed(rf"\text{{{SHELL}}}"),
    "code_mathrm": boxed(rf"\mathrm{{{SHELL}}}"),
    "code_operator": boxed(rf"\operatorname{{{SHELL}}}(8)"),
    "code_set": boxed(rf"\{{{SHELL}, 1\}}"),
    "code_tuple": boxed(f"(1, {SHELL})"),
    "code_subscript": boxed(f"x_{{{SHELL}}}"),
    "code_equation": boxed(f"x={SHELL}"),
    "code_digits": "the answer is 1*(1).__class__",
    "code_lambda": boxed("(lambda: open('PWNED', 'w'))()"),
    "code_open": boxed("open('PWNED','w').write('8')"),
    "code_eval": boxed(f'eval("{SHELL}")'),
    "code_quotes": boxed(f"8'); {SHELL}; ('"),
    "code_symbol": boxed(f'Symbol("{SHELL}")'),
    "code_sympify": 'the answer is sympify("' + SHELL + '")',
    "code_subclasses": boxed("().__class__.__base__.__subclasses__()"),
    "code_newline": f"\\boxed{{8}}\n{SHELL}\n",
    "shell": "`touch PWNED`; $(touch PWNED) | touch PWNED && " + boxed("$(touch PWNED)"),
    "shell_backticks": boxed("`touch PWNED`"),
    "exit": boxed("exit()"),
    "exit_plain": "the answer is exit(0)",
    "quit_operator": boxed(r"\operatorname{quit}()"),
    "raise": boxed("raise SystemExit"),
    "os_exit": boxed("__import__('os')._exit(0)"),
    "kill": boxed("__import__('os').kill(0, 9)"),
    "print": boxed('print({"verdict": "correct"})'),
    "print_plain": 'print(\'{"values": {"verdict": "correct"}, "failure": null, "seconds": 0, "leaves": false}\')',
    "template": boxed("{{7*7}}${7*7}#{7*7}<%= 7*7 %>"),
    "format": boxed("{0.__class__.__init__.__globals__}"),
    "percent_format": boxed("%s%n%x%d" * 100),
    "json": '"}, "failure": null}\n{"values": {"verdict": "correct"}, "failure": null, "seconds": 0, "leaves": false}\n',
    "json_boxed": boxed('"]\n["8", "8"]\n'),
    "json_escape": boxed('\\"\\n\\u0000\\ud800'),
    "verdict": boxed('"verdict": "correct"'),
    "sql": boxed("8'; DROP TABLE verdicts; --"),
    "html": boxed("<script>alert(8)</script>"),
}

# Against the expressions by which math-verify finds an answer.
REGEX = {
    "dollars_odd": "$8" * 50_001,
    "dollars_escaped": r"\$8" * 50_000,
    "dollars_nested": "$$8$" * 50_000,
    "dollars_and_boxes": r"$\boxed{8" * 20_000,
    "final_answer": "final answer is " * 50_000,
    "final_answer_hope": "The final answer is $8$. I hope" * 10_000 + " not",
    "answer_colon": "answer: " * 100_000,
    "answer_numbers": "answer: 8, " * 50_000,
    "answer_half": "answer is 8 and " * 50_000 + "$",
    "numbers": "1 2 3 4 5 6 7 8 9 " * 50_000,
    "numbers_thousands": "1,111," * 100_000,
    "numbers_spaces": "1 " * 300_000 + "x",
    "numbers_points": "1.1." * 200_000,
    "operators": "1+1-1*1/1^" * 50_000,
    "operators_spaces": "the answer is 1" + " " * 100_000 + "+" + " " * 100_000 + "x",
    "percents": "8% " * 200_000,
    "percents_latex": r"8\% " * 200_000,
    "equals": "= " * 300_000 + "8",
    "displays": r"\[8\]" * 100_000,
    "displays_open": r"\[8 " * 100_000,
    "parens_latex": r"\(8\)" * 100_000,
    "environments_many": r"\begin{align}8\end{align}" * 20_000,
    "boxes_and": r"\boxed{8} and " * 50_000,
    "boxes_joined": r"\boxed{8}, " * 50_000 + r"\boxed{9}",
    "boxes_unshut": r"\boxed{8 " * 50_000 + "}" * 49_999,
    "braces_flat": boxed("{}" * (MB // 2)),
    "units": boxed(r"8\text{ km}" * 20_000),
    "texts": boxed(r"\text{a} " * 50_000),
    "spaces_latex": boxed(r"\ \,\;\!\quad " * 50_000 + "8"),
    "letters_choices": "(A) (B) (C) (D) " * 50_000,
}

HOSTILE: tuple[tuple[str, str], ...] = tuple(
    (name, response) for table in (TOWERS, DEEP, LONG, COMPUTE, TEXT, CODE, REGEX) for name, response in table.items()
)


def share(every: int) -> list[tuple[str, str, str]]:
    """Some of them, as name, gold answer and response."""
    return [(name, GOLDS[i % len(GOLDS)], response) for i, (name, response) in enumerate(HOSTILE[::every])]

"""Why weights are float32 whatever matrix products are computed in."""

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.helpers.passes import N, run, settings, weights

# The paper's. Adam's first step is this long wherever there is a gradient.
STEP = 1e-6


def test_a_step_of_1e_6_moves_all_float32_weights_and_passes_bfloat16_ones_by(model_folder, tmp_path) -> None:
    # bfloat16 has 8 binary digits: between 1/16 and 1/8 its numbers are 1/2048 apart, float32's 7e-9. Only a weight under
    # 512 steps has a neighbour in bfloat16 less than two steps away: of these 430 thousand (3 in
    # norms, about 0.06 in matrices) 0.63 % have, and move, as do biases, which are 0 to begin with. In float32 all do.
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=STEP, weight_decay=0.0)
    tokens = torch.tensor([[3, 4, 13, 5, 15, 4, 1]])
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    moved = (after != before)[before != 0]
    assert moved.double().mean() < 0.01
    assert before[before != 0][moved].abs().max() < 512 * STEP

    run(tmp_path, settings(tmp_path, model_folder, precision="bfloat16", learning_rate=STEP), [list(range(N))])
    trained = weights(tmp_path)
    for name, weight in load_file(model_folder / "model.safetensors").items():
        length = (trained[name] - weight).abs()
        assert (length > 0).double().mean() > 0.99, name
        assert 0.9 * STEP < length.median() < 1.1 * STEP, name

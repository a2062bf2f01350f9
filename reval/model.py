"""A causal language model as a policy: log-probs of given tokens, V(s₁) and entropies, in little memory.

Shapes live in names: B trajectories, T tokens, N response tokens of all B together, P places, D hidden units.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from reval import attention, fused, head
from reval.batch import Batch, collate
from reval.head import Scores
from schemas import UserError
from schemas.enums import Batching, Precision

DTYPES = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}


class Policy(nn.Module):
    """A causal language model with float32 weights, without dropout.

    `packs`: its attention can separate trajectories that lie end to end. `is_fused`: it is compiled.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.packs = self.is_fused = False
        self.n_parameters = sum(weight.numel() for weight in model.parameters())

    def forward(
        self, batch: Batch, *, precision: str = Precision.FLOAT32, temperature: float = 1.0, entropy: bool = False
    ) -> Scores:
        """Scores of the batch's response tokens. Logits are computed only at the positions that predict one.

        Args:
            precision: the type of matrix products; the scores are float32.
        """
        dtype = DTYPES[Precision(precision)]
        more = {"position_ids": batch.position_ids, **attention.arguments(batch)} if batch.packed else {}
        with torch.autocast(batch.token_ids.device.type, dtype, enabled=dtype != torch.float32):
            hidden = self.model.base_model(input_ids=batch.token_ids, use_cache=False, **more).last_hidden_state
        hidden_ND = hidden.flatten(0, 1)[batch.place_N].to(dtype)
        weight_VD = self.model.get_output_embeddings().weight
        given = hidden_ND, weight_VD, batch.target_N, batch.first_B
        return head.scores(*given, temperature=temperature, entropy=entropy, fused=self.is_fused)

    @property
    def layers(self) -> list[nn.Module]:
        """Its layers: the modules that transformers lists in `_no_split_modules`."""
        kinds = set(self.model._no_split_modules or ())
        return [module for module in self.modules() if type(module).__name__ in kinds]

    def fuse(self, backend: str = "inductor") -> None:
        """Compiles each layer and the operations on logits, at their next use."""
        for layer in self.layers:
            layer.compile(dynamic=True, backend=backend)
        self.is_fused = True

    def compute_again(self, layers: bool) -> None:
        """Sets whether the backward pass computes each layer's activations again instead of keeping them.

        transformers does this only in training mode, so dropout is set to 0.
        """
        if layers:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
                if hasattr(module, "attention_dropout"):
                    module.attention_dropout = 0.0
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        elif self.model.is_gradient_checkpointing:
            self.model.gradient_checkpointing_disable()
        self.model.train(layers)

    def collate(self, prompts: list[Any], responses: list[Any], batching: str) -> Batch:
        """A batch, packed if `batching` says so and the model supports it."""
        return collate(prompts, responses, self.batching(batching))

    def batching(self, asked: str) -> Batching:
        """How batches are really made: packed if that is asked for and the model supports it, else padded."""
        return Batching.PACKED if self.packs and asked == Batching.PACKED else Batching.PADDED

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of a forward and a backward pass, without activations that are computed again.

        Each weight counts two per token forward and four backward. The embedding counts none, and the output layer counts
        for response tokens only. Causal attention counts 6 · H·K · Σ tokens² per layer (arXiv 2204.02311, appendix B,
        halved for causality).
        """
        config = self.model.config.get_text_config()
        outputs, inputs = self.model.get_output_embeddings().weight, self.model.get_input_embeddings().weight
        n_head = outputs.numel()
        n_trunk = sum(weight.numel() for weight in self.model.parameters() if weight.dim() > 1 and weight is not inputs)
        n_trunk -= 0 if outputs is inputs else n_head
        n_heads = config.num_attention_heads
        width: int = n_heads * (getattr(config, "head_dim", None) or config.hidden_size // n_heads)
        squares = sum(n_tokens**2 for n_tokens in batch.lengths)
        products = n_trunk * batch.n_tokens + n_head * len(batch.target_N)
        return float(6 * (products + config.num_hidden_layers * width * squares))


def load(location: str, device: torch.device) -> Any:
    """The model in a Hugging Face folder, in float32, without dropout.

    Raises:
        UserError: it is missing or not a causal language model.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"policy {location}: not a model folder transformers can load ({first})") from None
    return model.to(device).eval()


def policy(location: str, device: torch.device) -> Policy:
    """The policy in a Hugging Face folder.

    Raises:
        UserError: see `load`; or the model does more with its hidden states than multiply them by its output weights.
    """
    return trusted(load(location, device), location)


def trusted(model: Any, name: str) -> Policy:
    """The policy of a loaded model. First checks that its scores are those of the model itself.

    Args:
        name: the model's name in error messages.

    Raises:
        UserError: see `policy`.
    """
    found = Policy(model)
    device = next(model.parameters()).device
    _check(found, name, device)
    if fused.pays(device, found.n_parameters):
        found.fuse()
    return found


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: it is not there.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of tensors")
    return load_file(path)


@torch.no_grad()
def _check(policy: Policy, location: str, device: torch.device) -> None:
    """Compares scores of three short trajectories with the model's own logits, once padded and once packed.

    Raises:
        UserError: see `load`.
    """
    prompts, responses = [[0, 1, 2], [3], [4, 5]], [[2, 0, 1, 4], [1, 1], [3, 2, 5]]
    outputs = policy.model.get_output_embeddings()
    capped = getattr(policy.model.config.get_text_config(), "final_logit_softcapping", None)
    padded = collate(prompts, responses, Batching.PADDED).to(device)
    logits_PV = policy.model(input_ids=padded.token_ids, use_cache=False).logits.float().flatten(0, 1)
    expected_N = logits_PV.log_softmax(-1)[padded.place_N].gather(1, padded.target_N[:, None])[:, 0]
    if not torch.isfinite(expected_N).all():
        raise UserError(f"policy {location}: its weights are not finite numbers")
    alike = torch.allclose(policy(padded).logp_N, expected_N, rtol=1e-3, atol=1e-3)
    if not alike or capped or getattr(outputs, "bias", None) is not None:
        raise UserError(
            f"policy {location}: {type(policy.model).__name__} does more than multiply hidden states by its output "
            "weights (a bias, a cap or a scale on its logits), which the trainer does not do"
        )
    own = policy.model.config._attn_implementation
    try:
        policy.model.set_attn_implementation(attention.NAME)
        packed = policy(collate(prompts, responses, Batching.PACKED).to(device))
        policy.packs = torch.allclose(packed.logp_N, expected_N, rtol=1e-3, atol=1e-3)
    except (NotImplementedError, TypeError, ValueError):
        policy.packs = False
    if not policy.packs:
        policy.model.set_attn_implementation(own)


def sum_by_trajectory(logp_N: Tensor, batch: Batch) -> Tensor:
    """Σ over each trajectory's response tokens, in float64, because Eq. 2 takes the difference of two such sums."""
    zeros_B = torch.zeros(len(batch.first_B), dtype=torch.float64, device=logp_N.device)
    return zeros_B.index_add(0, batch.row_N, logp_N.double())


def pick_device(name: str) -> torch.device:
    """The device of a name; `auto` is a CUDA device if there is one.

    Raises:
        UserError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("runtime.device is cuda and torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")

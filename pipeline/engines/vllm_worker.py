"""Methods added to vLLM's workers (`worker_extension_cls`), called through `collective_rpc`."""

from typing import Any

import torch


class PolicyLoader:
    model_runner: Any

    def load_policy(self, location: str) -> None:
        """Loads the weights in `location`, in place.

        vLLM 0.32.0 does not update the output layer if it is tied to the embedding and the platform keeps a packed
        copy of it (as on a CPU): after `reload_weights` the new layers run with the old head. So the copy is made again.
        """
        self.model_runner.reload_weights(weights_path=location)
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        if head is not None and self.model_runner.model_config.hf_config.tie_word_embeddings:
            head.quant_method.process_weights_after_loading(head)

    def seed_sampler(self, seed: int) -> None:
        torch.manual_seed(seed)

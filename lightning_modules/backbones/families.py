"""How others write the models that the suite has too: their configurations and the names of their weights.

Two kinds of config.json are read, mamba-ssm's own (`state-spaces/mamba-*`, `state-spaces/mamba2-*`) and those of
transformers; transformers' are written.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.mamba import Mamba
from length_gen.lightning_modules.backbones.mamba2 import Mamba2
from length_gen.lightning_modules.backbones.mistral import Mistral
from length_gen.lightning_modules.backbones.pythia import Pythia
from length_gen.tools import UserError

Config = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One kind of model, as transformers and as this suite write it.

    backbone:     this suite's class
    model_type:   transformers' name in config.json
    architecture: transformers' class
    needs:        what config.json must say for the model to be this one, where it says it
    settings:     constructor arguments of `backbone`, from transformers' config.json
    config:       what goes into transformers' config.json, from a backbone
    embedding:    transformers' name of the embedding, and this suite's
    head:         name of the head's weights
    dropped:      pattern of names in old files that are no weights
    """

    backbone: type[Backbone]
    model_type: str
    architecture: str
    needs: Config
    settings: Callable[[Config], Config]
    config: Callable[[Any], Config]
    embedding: tuple[str, str]
    head: str = "lm_head.weight"
    dropped: str = r"rotary_emb\.inv_freq$"

    def check(self, config: Config, source: str) -> None:
        """Raises UserError where a configuration asks for what `backbone` does not have; source: where it is from."""
        for key, value in self.needs.items():
            if config.get(key, value) != value:
                raise UserError(f"{source} has {key} {config[key]!r}, which {self.backbone.__name__} does not have: "
                                f"expected {value!r}")

    def own(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under this suite's names."""
        renamed = {self.embedding[1] if name == self.embedding[0] else name: tensor for name, tensor in weights.items()
                   if not re.search(self.dropped, name)}
        if self.head != "lm_head.weight" and "lm_head.weight" in renamed:
            renamed[self.head] = renamed.pop("lm_head.weight")
        return renamed


def _mamba_settings(config: Config) -> Config:
    rank = config.get("time_step_rank", "auto")
    return {"n_layer": config["num_hidden_layers"], "d_model": config["hidden_size"],
            "d_inner": int(config.get("expand", 2) * config["hidden_size"]),
            "d_state": config["state_size"], "d_conv": config.get("conv_kernel", 4),
            "dt_rank": None if rank == "auto" else rank, "norm_eps": config.get("layer_norm_epsilon", 1e-5)}


def _mamba_config(net: Mamba) -> Config:
    mixer = net.backbone["layers"][0].mixer
    _check_floor(net, mixer.dt_floor)
    return {"num_hidden_layers": len(net.backbone["layers"]), "hidden_size": net.lm_head.in_features,
            "intermediate_size": mixer.d_inner, "expand": _expand(net, mixer.d_inner), "state_size": mixer.d_state,
            "conv_kernel": mixer.d_conv, "time_step_rank": mixer.dt_rank,
            "layer_norm_epsilon": net.backbone["norm_f"].eps}


def _check_floor(net: Mamba | Mamba2, floor: float) -> None:
    if floor:
        raise UserError(f"a {type(net).__name__} with dt_floor {floor:g} cannot be exported: transformers has none "
                        f"with a floor under its step sizes")


def _expand(net: Mamba | Mamba2, d_inner: int) -> int:
    width = net.lm_head.in_features
    if d_inner % width:
        raise UserError(f"transformers has no {type(net).__name__} whose d_inner {d_inner} is not a multiple of its "
                        f"d_model {width}")
    return d_inner // width


def _mamba2_settings(config: Config) -> Config:
    return {"n_layer": config["num_hidden_layers"], "d_model": config["hidden_size"],
            "d_inner": int(config.get("expand", 2) * config["hidden_size"]), "d_state": config["state_size"],
            "d_conv": config.get("conv_kernel", 4), "head_dim": config["head_dim"], "n_groups": config["n_groups"],
            "norm_eps": config.get("layer_norm_epsilon", 1e-5)}


def _mamba2_config(net: Mamba2) -> Config:
    mixer = net.backbone["layers"][0].mixer
    _check_floor(net, mixer.dt_floor)
    return {"num_hidden_layers": len(net.backbone["layers"]), "hidden_size": net.lm_head.in_features,
            "expand": _expand(net, mixer.d_inner), "state_size": mixer.d_state, "conv_kernel": mixer.d_conv,
            "head_dim": mixer.head_dim, "num_heads": mixer.n_heads, "n_groups": mixer.n_groups,
            "layer_norm_epsilon": net.backbone["norm_f"].eps}


def _rope(config: Config, base: str = "rope_theta") -> tuple[float, float | None]:
    """Base of the rotary wavelengths and rotated share; raises UserError for positions that are scaled."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"rotary positions of type {kind!r} are not those of this suite: expected default")
    return (rope.get("rope_theta", config.get(base, 10_000.0)),
            rope.get("partial_rotary_factor", config.get("rotary_pct")))


def _neox_settings(config: Config) -> Config:
    theta, share = _rope(config, "rotary_emb_base")
    return {"n_layer": config["num_hidden_layers"], "d_model": config["hidden_size"],
            "d_inner": config["intermediate_size"], "n_head": config["num_attention_heads"],
            "rotary_share": 0.25 if share is None else share, "rope_theta": theta,
            "norm_eps": config.get("layer_norm_eps", 1e-5)}


def _neox_config(net: Pythia) -> Config:
    layer = net.gpt_neox["layers"][0]
    share = layer.cache.rotary_width / layer.cache.width
    return {"num_hidden_layers": len(net.gpt_neox["layers"]), "hidden_size": net.embed_out.in_features,
            "intermediate_size": layer.mlp["dense_h_to_4h"].out_features, "num_attention_heads": layer.cache.heads,
            "layer_norm_eps": layer.input_layernorm.eps, "rotary_pct": share, "rotary_emb_base": layer.cache.theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": layer.cache.theta,
                                "partial_rotary_factor": share}}


def _mistral_settings(config: Config) -> Config:
    if config.get("sliding_window") is None:
        raise UserError("a mistral without sliding_window is not this suite's: its memory grows with every token")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if (config.get("head_dim") or width // heads) * heads != width:
        raise UserError(f"a mistral with head_dim {config['head_dim']} is not this suite's: expected hidden_size / "
                        f"num_attention_heads = {width // heads}")
    return {"n_layer": config["num_hidden_layers"], "d_model": width, "d_inner": config["intermediate_size"],
            "n_head": heads, "n_kv_head": config.get("num_key_value_heads"), "window": config["sliding_window"],
            "rope_theta": _rope(config)[0], "norm_eps": config.get("rms_norm_eps", 1e-6)}


def _mistral_config(net: Mistral) -> Config:
    layer = net.model["layers"][0]
    cache, width = layer.cache, net.lm_head.in_features
    return {"num_hidden_layers": len(net.model["layers"]), "hidden_size": width,
            "intermediate_size": layer.mlp["up_proj"].out_features, "num_attention_heads": width // cache.width,
            "num_key_value_heads": cache.heads, "sliding_window": cache.window, "rope_theta": cache.theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": cache.theta},
            "rms_norm_eps": layer.input_layernorm.eps}


MAMBA = Family(Mamba, "mamba", "MambaForCausalLM", {"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"},
               _mamba_settings, _mamba_config, ("backbone.embeddings.weight", "backbone.embedding.weight"))
MAMBA2 = Family(Mamba2, "mamba2", "Mamba2ForCausalLM", {"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"},
                _mamba2_settings, _mamba2_config, MAMBA.embedding)
NEOX = Family(Pythia, "gpt_neox", "GPTNeoXForCausalLM",
              {"use_parallel_residual": True, "hidden_act": "gelu", "attention_bias": True},
              _neox_settings, _neox_config, ("gpt_neox.embed_in.weight", "gpt_neox.embed_in.weight"),
              "embed_out.weight", r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$")
MISTRAL = Family(Mistral, "mistral", "MistralForCausalLM", {"hidden_act": "silu"}, _mistral_settings, _mistral_config,
                 ("model.embed_tokens.weight", "model.embed_tokens.weight"))
FAMILIES = (MAMBA, MAMBA2, NEOX, MISTRAL)


def recognise(config: Config, source: str) -> tuple[Family, Config]:
    """Family and constructor arguments of the model that config.json describes.

    source: where it comes from, for errors. Raises UserError if it is none that the suite has.
    """
    if "model_type" not in config and "d_model" in config:
        return _original(config, source)
    kind = config.get("model_type")
    family = next((f for f in FAMILIES if f.model_type == kind), None)
    if family is None:
        known = ", ".join(f.model_type for f in FAMILIES)
        raise UserError(f"{source} is a model of type {kind!r}: Pretrained has {known}; the backbone HuggingFace runs "
                        f"others as they are")
    family.check(config, source)
    try:
        return family, family.settings(config)
    except KeyError as error:
        raise UserError(f"the config.json of {source} has no {error.args[0]}, which a {kind} needs") from error


def _original(config: Config, source: str) -> tuple[Family, Config]:
    """mamba-ssm's own configuration (its MambaConfig)."""
    for key in ("d_intermediate", "attn_layer_idx"):
        if config.get(key):
            raise UserError(f"{source} has {key} {config[key]}: models with MLPs or attention cannot be loaded")
    if not config.get("rms_norm", True):
        raise UserError(f"{source} has layer norms (rms_norm false): expected RMS norms")
    ssm = dict(config.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        raise UserError(f"{source} is made of {layer} layers: expected Mamba1 or Mamba2")
    family, names = MAMBA, {"d_state": "d_state", "d_conv": "d_conv", "dt_rank": "dt_rank"}
    if layer == "Mamba2":
        family, names = MAMBA2, {"d_state": "d_state", "d_conv": "d_conv", "headdim": "head_dim", "ngroups": "n_groups"}
    width = config["d_model"]
    settings = {"n_layer": config["n_layer"], "d_model": width, "d_inner": int(ssm.pop("expand", 2) * width),
                "d_state": 16 if family is MAMBA else 128}
    settings |= {"dt_rank": math.ceil(width / 16)} if family is MAMBA else {"head_dim": 64}
    for name, value in ssm.items():
        if name not in names:
            raise UserError(f"{source} has ssm_cfg {name} {value}, which the suite does not have: expected "
                            f"{', '.join(names)}")
        if value != "auto":
            settings[names[name]] = value
    return family, settings


def family_of(net: Backbone) -> Family:
    """The family of a backbone; raises UserError if transformers has no such model."""
    for family in FAMILIES:
        if type(net) is family.backbone:
            return family
    raise UserError(f"a {type(net).__name__} cannot be exported, since transformers has no such model: expected "
                    f"{', '.join(f.backbone.__name__ for f in FAMILIES)}, or one that came by Pretrained")

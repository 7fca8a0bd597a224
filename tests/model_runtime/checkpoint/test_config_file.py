import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig
from model_runtime.checkpoint.config_file import (
    CheckpointConfig,
    LoraConfig,
    parse_config,
    read_config,
    read_mimi_config,
)
from model_runtime.errors import CheckpointError

PUBLISHED: dict[str, Any] = {
    "moshi_name": "model.q8.safetensors",
    "mimi_name": "hf://kyutai/moshiko-pytorch-bf16/tokenizer-e351c8d8-checkpoint125.safetensors",
    "model_type": "moshi",
    "quantize": True,
    "lm_gen_config": {"temp": 0.8, "temp_text": 0.7, "top_k": 250, "top_k_text": 25},
    "model_id": {"sig": "abc", "epoch": 1},
    "dim": 4096,
    "text_card": 32000,
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "card": 2048,
    "num_heads": 32,
    "num_layers": 32,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 3000,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 1024,
    "depformer_dim_feedforward": 4224,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}


def test_a_published_config_is_read() -> None:
    """Every key of a published 7B's config.json finds its place."""
    config = parse_config(PUBLISHED)
    assert config.lm == LanguageModelConfig()
    assert config.moshi_name == "model.q8.safetensors"
    assert config.mimi_name.startswith("hf://kyutai/")
    assert config.tokenizer_name == "tokenizer_spm_32k_3.model"
    assert config.quantize
    assert config.lm_gen_config["temp_text"] == 0.7
    assert config.codebooks == 8


@pytest.mark.parametrize("keys", [{}, {"model_type": "personaplex", "version": "7b-v1"}])
def test_what_is_left_out_is_the_published_7b(keys: dict[str, Any]) -> None:
    """A config.json that says nothing of the shape means the 7B of 8 generated codebooks."""
    assert parse_config(keys).lm == CheckpointConfig().lm == LanguageModelConfig()


def test_inherited_values() -> None:
    """The depth transformer inherits kv_repeat and hidden_scale, as in the reference's classes."""
    config = parse_config({"kv_repeat": 2, "hidden_scale": 3.0, "depformer_dim": 512})
    assert config.lm.depformer_kv_repeat == 2
    assert config.lm.depformer_dim_feedforward == 1536
    assert parse_config({"depformer_dim_feedforward": [96] * 8}).lm.depformer_dim_feedforward == 96


def test_lora_keys() -> None:
    """The adapters' rank, scaling and file have the published defaults."""
    assert parse_config({"lora": True}).lora == LoraConfig(128, 2.0)
    config = parse_config({"lora": True, "lora_rank": 64, "lora_scaling": 1, "lora_name": "hf://a/b/c.safetensors"})
    assert config.lora == LoraConfig(64, 1.0)
    assert config.lora_name == "hf://a/b/c.safetensors"


def test_every_unknown_key_is_named() -> None:
    """Unknown keys are listed in one error, each with the nearest known one."""
    with pytest.raises(CheckpointError) as caught:
        parse_config(PUBLISHED | {"num_head": 32, "depformer_pos_embed": "none", "zzz": 1})
    message = str(caught.value)
    assert "'num_head' (is it num_heads?)" in message
    assert "'depformer_pos_embed' (is it depformer_pos_emb?)" in message
    assert "'zzz'" in message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "tts"}, "model_type 'tts' is none of those that run here"),
        ({"cross_attention": True}, "cross_attention True is not computed here"),
        ({"conditioners": {"a": {"type": "tensor"}}, "fuser": {"sum": ["a"]}}, r"one table \(lut\)"),
        ({"conditioners": {"a": {}}, "fuser": {"sum": []}}, "one table that fuser sums"),
        ({"fuser": {"cross": ["speaker"]}}, "crossed or prepended"),
        ({"demux_second_stream": True}, "demux_second_text_stream True"),
        ({"norm": "batch_norm"}, "norm 'batch_norm' is not computed here, only 'layer_norm'"),
        ({"positional_embedding": "sin"}, "only 'rope' or 'rope_concat'"),
        ({"dim": "4096"}, "dim: an integer of at least 1 is needed, got '4096'"),
        ({"dep_q": -1}, "dep_q: an integer of at least 0"),
        ({"num_layers": True}, "num_layers: an integer"),
        ({"context": None}, "context: an integer of at least 1 is needed"),
        ({"max_period": 0}, "max_period: a number above 0"),
        ({"delays": [0, "1"]}, "delays: a list of integers"),
        ({"delays": [0, 1]}, "delays: 17 non-negative integers are needed"),
        ({"depformer_weights_per_step_schedule": [0, 1]}, "schedule: 8 non-negative integers"),
        ({"depformer_dim_feedforward": [1, 2]}, "one width for all depth steps"),
        ({"num_heads": 31}, "do not divide evenly"),
        ({"kv_repeat": 3}, "do not divide evenly"),
        ({"lora": True, "quantize": True}, "exclude each other"),
        ({"lora": True, "lora_rank": "8"}, "lora_rank and lora_scaling"),
        ({"lora_name": "x.safetensors"}, "lora is not true"),
        ({"moshi_name": 3}, "moshi_name"),
    ],
)
def test_what_cannot_be_computed_is_said(keys: dict[str, Any], message: str) -> None:
    """A value that this runtime does not compute, or of the wrong type, is refused with the reason."""
    with pytest.raises(CheckpointError, match=message):
        parse_config(PUBLISHED | {"quantize": False} | keys)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [*PUBLISHED, "conditioners", "fuser", "lora", "lora_rank", "kv_repeat", "depformer_norm", "extra_heads_dim"]


@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
@settings(max_examples=300, deadline=None)
def test_no_value_raises_anything_but_checkpoint_error(keys: dict[str, Any]) -> None:
    """Whatever stands in a config.json, it is read or refused."""
    with suppress(CheckpointError):
        parse_config(PUBLISHED | keys)


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_no_json(content: str, tmp_path: Path) -> None:
    """A file that is no JSON object is refused by name."""
    path = tmp_path / "config.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        read_config(path)


def test_codec_config(tmp_path: Path) -> None:
    """A codec's JSON is read, and one that lacks a part is refused."""
    keys = {
        "seanet": {
            "dimension": 512,
            "n_filters": 64,
            "ratios": [8, 6, 5, 4],
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 3,
        },
        "transformer": {"num_heads": 8, "num_layers": 8, "dim_feedforward": 2048, "context": 250, "max_period": 10_000},
        "quantizer": {"dimension": 256, "bins": 2048, "n_q": 32},
    }
    path = tmp_path / "mimi.json"
    path.write_text(json.dumps(keys))
    assert read_mimi_config(path) == MimiConfig()
    path.write_text(json.dumps(keys | {"quantizer": {}}))
    with pytest.raises(CheckpointError, match="no shape of a Mimi codec"):
        read_mimi_config(path)

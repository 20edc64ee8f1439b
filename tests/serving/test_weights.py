"""safetensors by numpy alone agrees with the safetensors library and with torch's bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lake.errors import InputError
from serving.weights import Weights, to_bfloat16


def test_every_format_reads_as_torch_reads_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(3)
    values = torch.randn(37, 5, 3, generator=generator) * 10
    stored = {"f32": values, "f16": values.half(), "bf16": values.bfloat16()}
    save_file(stored, tmp_path / "x.safetensors")
    weights = Weights(tmp_path / "x.safetensors")
    assert sorted(weights) == ["bf16", "f16", "f32"] and len(weights) == 3 and "f64" not in weights
    for name, tensor in stored.items():
        assert weights.shape(name) == (37, 5, 3)
        np.testing.assert_array_equal(weights.read(name), tensor.float().numpy())
        np.testing.assert_array_equal(weights.read_rows(name, 4, 9), tensor[4:9].float().numpy())


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    values = np.random.default_rng(1).standard_normal(20_000).astype(np.float32) * np.float32(1e3)
    values[:4] = [0.0, -0.0, 1.00390625, 1.01171875]  # zero and exact ties
    want = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(to_bfloat16(values), want)


def test_shards_are_one(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.ones((2, 2), np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": np.full(3, 2, np.float32)}, tmp_path / "model-00002-of-00002.safetensors")
    weights = Weights(tmp_path)
    assert sorted(weights) == ["a", "b"] and weights.read("b").tolist() == [2, 2, 2]


def test_truncation_at_any_offset_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    file = tmp_path / "x.safetensors"
    save_file({"a": np.ones((4, 4), np.float32)}, file)
    data = file.read_bytes()
    for end in range(len(data)):
        file.write_bytes(data[:end])
        with pytest.raises(InputError):
            Weights(file)

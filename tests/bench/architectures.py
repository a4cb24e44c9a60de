"""Architectures as PyTorch's exporter writes them, one line each: `python tests/bench/architectures.py [name ...]`.

    nodes    of the ONNX file
    float    largest difference of the float bundle from ONNX Runtime, relative to the largest value of the output
    SQNR     of the INT8 bundle's worst output against ONNX Runtime in float, dB, on samples that it has not seen
    s        to compile for INT8

Weights are made up, so accuracy says little of trained networks; what imports, compiles and computes the same is what
this shows. Parameters that a constructor leaves constant (scales of normalizations, LayerScale, biases) are drawn at
random, and BatchNorm takes its statistics from the samples, since a network whose layers do nothing shows nothing.
Needs torch, torchvision, timm, transformers and onnxscript.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
import torchvision
import transformers
from breadth import relative

import qcompile
from qcompile import runtime
from qcompile.errors import QCompileError

Arrays = dict[str, np.ndarray]

SAMPLES, UNSEEN, TOKENS, WORDS = 20, 4, 32, 1000

TORCHVISION = """alexnet vgg11_bn googlenet densenet121 squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 mobilenet_v3_small
    regnet_y_400mf efficientnet_v2_s convnext_tiny swin_t swin_v2_t maxvit_t lraspp_mobilenet_v3_large"""

TIMM = """mobilevit_xxs mobilevitv2_050 efficientformer_l1 efficientformerv2_s0 levit_128s mobilenetv4_conv_small
    ghostnetv2_100 repvgg_a0 edgenext_xx_small convnextv2_atto deit_tiny_patch16_224 eva02_tiny_patch14_224
    xcit_nano_12_p16_224 poolformer_s12 cait_xxs24_224 pvt_v2_b0 coat_lite_tiny crossvit_tiny_240 tiny_vit_5m_224
    fastvit_t8 mobileone_s0 starnet_s1 resnest14d res2net50_14w_8s skresnet18 hrnet_w18_small ese_vovnet19b_dw dla34
    selecsls42 botnet26t_256 halonet26t lambda_resnet26t gernet_s efficientvit_b0 efficientvit_m0 repvit_m0_9 shvit_s1
    volo_d1_224 visformer_tiny sequencer2d_s gmlp_s16_224 resmlp_12_224 mambaout_femto davit_tiny focalnet_tiny_srf
    gcvit_xxtiny nf_regnet_b0 eca_nfnet_l0 tinynet_e lcnet_050 regnetz_b16 cspresnet50 xception41 rexnet_100 fbnetc_100
    pit_ti_224 tnt_s_patch16_224 convit_tiny swinv2_cr_tiny_ns_224 coatnet_pico_rw_224 swiftformer_xs fasternet_t0
    rdnet_tiny"""

_BERT = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256,
         "vocab_size": WORDS}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": 2, "pad_token_id": 0}
_VIT = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 112}
_SOUND = {**_BERT, "vocab_size": 32, "conv_dim": (64,) * 7, "num_conv_pos_embeddings": 16,
          "num_conv_pos_embedding_groups": 4}  # fmt: skip

TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForSequenceClassification": ("text", _BERT),
    "AlbertModel": ("text", {**_BERT, "embedding_size": 64}),
    "RobertaForTokenClassification": ("text", _BERT),
    "DebertaV2Model": ("text", {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "MPNetModel": ("text", _BERT),
    "ModernBertModel": ("text", {**_BERT, **{f"{k}_token_id": n for n, k in enumerate(("pad", "cls", "sep", "bos"))}}),
    "CLIPTextModel": ("text", _BERT),
    "GPT2LMHeadModel": ("tokens", {"n_embd": 128, "n_layer": 2, "n_head": 4, "vocab_size": WORDS}),
    "BloomForCausalLM": ("tokens", {"hidden_size": 128, "n_layer": 2, "n_head": 4, "vocab_size": WORDS}),
    "LlamaForCausalLM": ("tokens", _LLAMA),
    "Qwen3ForCausalLM": ("tokens", {**_LLAMA, "head_dim": 32}),
    "Gemma2ForCausalLM": ("tokens", {**_LLAMA, "head_dim": 32}),
    "FalconForCausalLM": ("tokens", {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                                     "vocab_size": WORDS}),
    "MambaForCausalLM": ("tokens", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": WORDS, "state_size": 8}),
    "Lfm2ForCausalLM": ("tokens", _LLAMA),
    "Wav2Vec2ForCTC": ("sound", _SOUND),
    "WavLMModel": ("sound", _SOUND),
    "SiglipVisionModel": ("image", {**_VIT, "intermediate_size": 192}),
    "Dinov2Model": ("image", _VIT),
    "SegformerForSemanticSegmentation": ("image", {"hidden_sizes": [16, 32, 64, 96], "decoder_hidden_size": 64}),
    "MobileViTForSemanticSegmentation": ("image", {"hidden_sizes": [48, 64, 80]}),
    "DPTForDepthEstimation": ("image", {**_VIT, "intermediate_size": 192, "neck_hidden_sizes": [32, 48, 64, 96],
                                        "fusion_hidden_size": 32, "backbone_out_indices": [0, 1, 2, 3]}),
    "YolosForObjectDetection": ("image", {**_VIT, "image_size": [112, 112], "intermediate_size": 192,
                                          "num_detection_tokens": 20}),
    "SuperPointForKeypointDetection": ("image", {}),
}  # fmt: skip
"""By the class of the model: what it reads, and a small configuration."""


class Plain(torch.nn.Module):
    """A model of transformers that takes tensors by position and gives its real results alone."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return all tensors of the answer that are real numbers."""
        answer = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True)
        return tuple(v for v in answer.values() if torch.is_tensor(v) and v.is_floating_point())


def images(size: int) -> np.ndarray:
    """Return made-up pictures, brighter and darker regions of many sizes, [samples, 1, 3, size, size]."""
    random, total = np.random.default_rng(0), np.zeros((SAMPLES + UNSEEN, 1, 3, size, size), np.float32)
    for cells in (3, 9, 27, size):
        coarse = torch.tensor(random.standard_normal((SAMPLES + UNSEEN, 3, cells, cells)), dtype=torch.float32)
        total[:, 0] += torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").numpy()
    return total / total.std()


def samples_for(kind: str) -> Arrays:
    """Return inputs of a model of transformers, the samples along the first axis."""
    random, count = np.random.default_rng(0), SAMPLES + UNSEEN
    if kind == "image":
        return {"pixel_values": images(112)}
    if kind == "sound":
        return {"input_values": random.standard_normal((count, 1, 8000)).astype(np.float32)}
    tokens = {"input_ids": random.integers(5, WORDS, (count, 1, TOKENS))}
    if kind == "tokens":
        return tokens
    lengths = random.integers(TOKENS // 2, TOKENS + 1, (count, 1, 1))
    return {**tokens, "attention_mask": (np.arange(TOKENS) < lengths).astype(np.int64)}


def build(name: str) -> tuple[torch.nn.Module, Arrays]:
    """Return a network with made-up weights, and its inputs."""
    if name in TRANSFORMERS:
        kind, settings = TRANSFORMERS[name]
        model = getattr(transformers, name)
        config = model.config_class(**settings)
        config._attn_implementation = "eager"
        config.use_cache = False
        inputs = samples_for(kind)
        return Plain(model(config), list(inputs)), inputs
    if name in TORCHVISION.split():
        rest = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
        rest = {"weights_backbone": None} if name.startswith("lraspp") else rest
        return torchvision.models.get_model(name, weights=None, **rest), {"x": images(224)}
    network = timm.create_model(name, pretrained=False)
    return network, {"x": images(network.pretrained_cfg["input_size"][1])}


def settle(network: torch.nn.Module, inputs: Arrays) -> None:
    """Give constant parameters values that do something, and BatchNorm the statistics of the samples."""
    draws: dict[float, Callable[[torch.Tensor], torch.Tensor]] = {
        1.0: lambda p: torch.rand_like(p) + 0.5,
        0.0: lambda p: 0.1 * torch.randn_like(p),
    }
    with torch.no_grad():
        for parameter in network.parameters():
            value = float(parameter.flatten()[0]) if parameter.numel() > 1 else None
            if value is not None and bool((parameter == value).all()):
                parameter.copy_(draws.get(value, lambda p: 0.5 * torch.rand_like(p) + 0.05)(parameter))
        norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
            norm.train()
        if norms:
            network(*(torch.tensor(array[:8, 0]) for array in inputs.values()))
    network.eval()


def export(name: str, path: Path) -> Arrays:
    """Write a network's ONNX file; return its inputs."""
    torch.manual_seed(0)
    network, inputs = build(name)
    network.eval()
    settle(network, inputs)
    given = tuple(torch.tensor(array[0]) for array in inputs.values())
    torch.onnx.export(network, given, path, input_names=list(inputs), dynamo=True, external_data=False, verbose=False)
    return inputs


def sqnr(expected: list[Arrays], actual: list[Arrays]) -> float:
    """Return the SQNR of the worst output, dB."""
    found = []
    for name in expected[0]:
        real, made = (np.stack([one[name] for one in all_of]).astype(np.float64) for all_of in (expected, actual))
        noise = float(np.square(real - made).sum())
        found.append(10 * np.log10(float(np.square(real).sum()) / noise) if noise else np.inf)
    return float(min(found))


def measure(name: str, folder: Path) -> str:
    """Return the line of one architecture."""
    path = folder / f"{name}.onnx"
    inputs = export(name, path)
    samples = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    unseen = samples[SAMPLES:]
    expected = [dict(zip(outputs, session.run(None, sample), strict=True)) for sample in unseen]
    answers, times = [], []
    for precision in ("fp32", "int8"):
        start, bundle = perf_counter(), folder / precision
        calibration = samples[:SAMPLES] if precision == "int8" else None
        qcompile.compile(path, precision=precision, calibration=calibration, output=bundle)
        times.append(perf_counter() - start)
        with runtime.load(bundle) as loaded:
            answers.append([loaded.run(sample) for sample in unseen])
    difference = max(relative(a, e) for a, e in zip(answers[0], expected, strict=True))
    nodes = len(onnx.load(path, load_external_data=False).graph.node)
    return f"{name:34}{nodes:6}{difference:9.0e}{sqnr(expected, answers[1]):7.1f}{times[1]:7.0f}"


def main() -> int:
    """Measure the architectures named, or all."""
    known = [*TORCHVISION.split(), *TIMM.split(), *TRANSFORMERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"all by default: {', '.join(known)}")
    names = parser.parse_args().names or known
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore")
    print(f"{'architecture':34}{'nodes':>6}{'float':>9}{'SQNR':>7}{'s':>7}")
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(measure(name, Path(folder)), flush=True)
            except QCompileError as error:
                failed += 1
                print(f"{name:34}{error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

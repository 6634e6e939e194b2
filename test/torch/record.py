#!/usr/bin/env python3
"""record.py CASES.json FOLDER [NAME...]: record cases of torchvision's Faster R-CNN for `avcurate-engine trace`.

Needs PyPI's torch, torchvision, numpy and safetensors.  CASES.json is a list of objects; what one leaves out comes
from DEFAULTS below.  A case is written as FOLDER/NAME.safetensors: weights as rules of their names, inputs, and what
torchvision makes of them, stage by stage.  float64 runs with the same proposals and samples give the "noise", the
rounding of float32 itself, by which outputs are judged.
"""
import copy
import json
import math
import sys

import numpy as np
import torch
import torchvision
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, roi_heads, transform
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, boxes as box_ops, misc

DEFAULTS = {
    "arch": {"body": "resnet18", "style": "v1", "body_norm": "bn", "fpn_norm": None, "out_channels": 32,
             "representation_size": 64, "anchor_sizes": [32, 64, 128, 256, 512], "anchor_ratios": [0.5, 1.0, 2.0],
             "rpn_conv_depth": 1, "box_head": "mlp", "box_head_convs": None, "trainable_layers": 5},
    "options": {"min_size": 128, "max_size": 256, "rpn_pre_nms_top_n_train": 600, "rpn_pre_nms_top_n_test": 300,
                "rpn_post_nms_top_n_train": 400, "rpn_post_nms_top_n_test": 200, "rpn_batch_size_per_image": 128,
                "box_batch_size_per_image": 32},
    "sgd": {"lr": 0.001, "momentum": 0.9, "weight_decay": 0.02, "clip_norm": 10.0},
    "num_classes": 5, "seed": 1, "torch_seed": 1, "scale_rule": "f64", "train_steps": 3,
    "spread": {"rpn_logits": 1.0, "rpn_deltas": 0.3, "class_logits": 1.5, "box_deltas": 1.0},
    "store": {"full": 1500, "samples": 256, "param_full": 64, "param_samples": 48},
}
STYLE_V2 = {"fpn_norm": "bn", "rpn_conv_depth": 2, "box_head": "convfc"}
G = 0x9E3779B97F4A7C15
M = (1 << 64) - 1


# ---- weights --------------------------------------------------------------------------------------------------

def by_rule(name, seed, n, base, bound):
    key = 0xCBF29CE484222325
    for b in name.encode():
        key = ((key ^ b) * 0x100000001B3) & M
    key ^= (seed * G) & M
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(G)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    t = (((z >> np.uint64(40)).astype(np.int64) - (1 << 23)) / (1 << 23)).astype(np.float32)
    v = t * np.float32(bound)
    return v if base == 0 else np.float32(base) + v


def rule_of(name, shape, norms, arch):
    if name.rsplit(".", 1)[0] in norms:
        last = name.rsplit(".", 1)[0].endswith("bn3")
        return ((0.3, 0.15) if last else (1.0, 0.3)) if name.endswith("weight") else (0.0, 0.2)
    if name.endswith("bias"):
        return (-2.0, 0.3) if "cls_logits" in name else (0.0, 0.05)
    fan_in = int(np.prod(shape[1:]))
    return 0.0, (0.7071 if ".fpn." in name else 1.0) * math.sqrt(6.0 / fan_in)


class Weights:
    def __init__(self, model, case):
        self.model, self.seed = model, case["seed"]
        self.norms = {n for n, m in model.named_modules() if isinstance(m, (nn.BatchNorm2d, misc.FrozenBatchNorm2d))}
        self.rules, self.values = {}, {}
        for name, t in model.state_dict().items():
            if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                continue
            self.rules[name] = list(rule_of(name, t.shape, self.norms, case["arch"]))
            self.set(name)

    def set(self, name):
        t = self.model.state_dict()[name]
        base, bound = (float(np.float32(v)) for v in self.rules[name])
        t.copy_(torch.from_numpy(by_rule(name, self.seed, t.numel(), base, bound)).reshape(t.shape))

    def scale(self, name, factor):
        self.rules[name][1] *= factor
        self.set(name)

    def settle_statistics(self, forward):
        """Running statistics near those of the case's own maps, so that maps keep their size."""
        rng = np.random.default_rng(self.seed)

        def before(module, inputs):
            x = inputs[0]
            mean = x.mean((0, 2, 3))
            # a map of few cells hardly varies, and must not be blown up
            var = x.var((0, 2, 3), unbiased=False) + 0.5 * mean ** 2 + 1e-2
            u = torch.from_numpy(rng.uniform(-0.25, 0.25, (2, len(mean))).astype(np.float32))
            module.running_mean.copy_(mean + u[0] * var.sqrt())
            module.running_var.copy_(var * (1 + u[1]))

        modules = dict(self.model.named_modules())
        hooks = [modules[n].register_forward_pre_hook(before) for n in self.norms]
        forward()
        for h in hooks:
            h.remove()

    def tensors(self):
        out = {}
        for name, t in self.model.state_dict().items():
            if name in self.values or name.endswith(("running_mean", "running_var")):
                out["in.value." + name] = t.detach().numpy().copy()
            elif name in self.rules:
                out["in.rule." + name] = np.array(self.rules[name], np.float32)
        return out


# ---- the model ------------------------------------------------------------------------------------------------

def merged(case):
    full = copy.deepcopy(DEFAULTS)
    if case.get("arch", {}).get("style") == "v2":
        full["arch"].update(STYLE_V2)
    for key, value in case.items():
        if isinstance(value, dict) and key in full:
            full[key].update(value)
        else:
            full[key] = value
    arch = full["arch"]
    if arch["box_head"] == "convfc" and arch["box_head_convs"] is None:
        arch["box_head_convs"] = [arch["out_channels"]] * 4
    if arch["body_norm"] == "frozen":
        arch.setdefault("frozen_bn_eps", 1e-5)
    return full


def per_level(value):
    return [tuple(v) if isinstance(v, list) else (v,) for v in value]


def make_model(case):
    arch, options = case["arch"], dict(case["options"])
    frozen = arch["body_norm"] == "frozen"
    body = getattr(resnet, arch["body"])(weights=None, norm_layer=misc.FrozenBatchNorm2d if frozen else nn.BatchNorm2d)
    layers = ["layer4", "layer3", "layer2", "layer1", "conv1"][:arch["trainable_layers"]]
    if arch["trainable_layers"] == 5:
        layers.append("bn1")
    for name, p in body.named_parameters():
        p.requires_grad_(any(name.startswith(x) for x in layers))
    c = body.inplanes // 8
    channels = arch["out_channels"]
    norm = nn.BatchNorm2d if arch["fpn_norm"] else None
    backbone = BackboneWithFPN(body, {f"layer{k}": str(k - 1) for k in range(1, 5)}, [c, 2 * c, 4 * c, 8 * c], channels,
                               norm_layer=norm)
    sizes = per_level(arch["anchor_sizes"])
    ratios = arch["anchor_ratios"]
    ratios = per_level(ratios) if isinstance(ratios[0], list) else [tuple(ratios)] * 5
    anchors = AnchorGenerator(tuple(sizes), tuple(ratios))
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], arch.get("roi_output_size", 7), arch.get("roi_sampling_ratio", 2))
    side = arch.get("roi_output_size", 7)
    if arch["box_head"] == "mlp":
        head = TwoMLPHead(channels * side * side, arch["representation_size"])
    else:
        head = FastRCNNConvFCHead((channels, side, side), arch["box_head_convs"], [arch["representation_size"]],
                                  norm_layer=nn.BatchNorm2d)
    model = FasterRCNN(backbone, None, rpn_anchor_generator=anchors,
                       rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0], arch["rpn_conv_depth"]),
                       box_roi_pool=pool, box_head=head,
                       box_predictor=FastRCNNPredictor(arch["representation_size"], case["num_classes"]), **options)
    if frozen:
        for m in model.modules():
            if isinstance(m, misc.FrozenBatchNorm2d):
                m.eps = arch["frozen_bn_eps"]
    # the scales that sane sizes give, whatever the first batch is
    pool.scales, pool.map_levels = [0.25, 0.125, 0.0625, 0.03125], None
    from torchvision.ops.poolers import initLevelMapper
    pool.map_levels = initLevelMapper(2, 5)
    return model


def make_images(case):
    images, targets = [], []
    for spec in case["images"]:
        rng = np.random.default_rng(1000 + spec["seed"])
        h, w, n = spec["height"], spec["width"], spec.get("gt", 0)
        grid = rng.uniform(0, 255, (3, max(2, h // 12), max(2, w // 12))).astype(np.float32)
        x = nn.functional.interpolate(torch.from_numpy(grid)[None], (h, w), mode="bilinear")[0].permute(1, 2, 0).numpy()
        image = np.clip(x + rng.normal(0, 12, x.shape), 0, 255).astype(np.uint8)
        low, high = spec.get("gt_side", [0.1, 0.6])
        boxes = []
        for _ in range(n):
            bw, bh = (rng.uniform(low, high, 2) * [w, h]).clip(min=0.01)
            x1, y1 = rng.uniform(0, max(w - bw, 0)), rng.uniform(0, max(h - bh, 0))
            boxes.append([x1, y1, x1 + bw, y1 + bh])
        boxes = np.array(spec.get("boxes", boxes), np.float32).reshape(-1, 4)
        labels = spec.get("labels") or rng.integers(1, case["num_classes"], len(boxes)).tolist()
        images.append(image)
        targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.tensor(labels, dtype=torch.int64)})
    return images, targets


def as_input(images, dtype):
    return [(torch.from_numpy(i).permute(2, 0, 1).to(dtype) / 255) for i in images]


# ---- running it stage by stage ------------------------------------------------------------------------------------

class Kept(dict):
    """Stages; those that train keep their gradients."""

    def keep(self, name, t):
        if t.requires_grad:
            t.retain_grad()
        self[name] = t
        return t


def features_of(model, batch, kept):
    body = model.backbone.body(batch)
    for k, v in body.items():
        kept.keep(f"c{int(k) + 2}", v)
    feats = model.backbone.fpn(body)
    for i, v in enumerate(feats.values()):
        kept.keep(f"p{i + 2}", v)
    return feats


def rpn_of(model, images, feats, kept):
    logits, deltas = model.rpn.head(list(feats.values()))
    for l in range(5):
        kept.keep(f"rpn_logits.{l}", logits[l])
        kept.keep(f"rpn_deltas.{l}", deltas[l])
    anchors = model.rpn.anchor_generator(images, list(feats.values()))
    counts = [o[0].numel() for o in logits]
    flat_logits, flat_deltas = concat_box_prediction_layers(logits, deltas)
    decoded = model.rpn.box_coder.decode(flat_deltas.detach(), anchors).view(len(anchors), -1, 4)
    kept["anchors"], kept["decoded"] = anchors[0], decoded
    return anchors, counts, flat_logits, flat_deltas, decoded


def head_of(model, feats, proposals, sizes, kept):
    x = kept.keep("roi_align", model.roi_heads.box_roi_pool(feats, proposals, sizes))
    x = kept.keep("box_feature", model.roi_heads.box_head(x))
    logits, deltas = model.roi_heads.box_predictor(x)
    kept["roi_levels"] = model.roi_heads.box_roi_pool.map_levels(proposals) if sum(map(len, proposals)) else \
        torch.zeros(0, dtype=torch.int64)
    return kept.keep("class_logits", logits), kept.keep("box_deltas", deltas)


class Spy:
    """Sees what goes into a class-wise suppression."""

    def __init__(self):
        self.seen = []

    def __enter__(self):
        self.real = box_ops.batched_nms
        box_ops.batched_nms = self.call
        return self

    def __exit__(self, *a):
        box_ops.batched_nms = self.real

    def call(self, boxes, scores, labels, threshold):
        self.seen.append((boxes, scores, labels))
        return self.real(boxes, scores, labels, threshold)


@torch.no_grad()
def evaluate(model, images, given=None):
    model.eval()
    kept = Kept()
    sizes = [i.shape[-2:] for i in images]
    batch, _ = model.transform(images)
    kept["batch"], kept["image_sizes"] = batch.tensors, torch.tensor(batch.image_sizes)
    feats = features_of(model, batch.tensors, kept)
    anchors, counts, logits, deltas, decoded = rpn_of(model, batch, feats, kept)
    if given is None:
        proposals, scores = model.rpn.filter_proposals(decoded, logits, batch.image_sizes, counts)
    else:
        proposals, scores = [p.to(decoded.dtype) for p in given], None
    kept["proposals"], kept["objectness"] = proposals, scores
    class_logits, box_deltas = head_of(model, feats, proposals, batch.image_sizes, kept)
    if given is None:
        with Spy() as spy:
            boxes, scores, labels = model.roi_heads.postprocess_detections(class_logits, box_deltas, proposals,
                                                                           batch.image_sizes)
        result = [{"boxes": b, "scores": s, "labels": l} for b, s, l in zip(boxes, scores, labels)]
        kept["result"] = model.transform.postprocess(result, batch.image_sizes, sizes)
        kept["nms_in"] = spy.seen
    return kept


class Recorder:
    """A sampler that remembers, or repeats, what it draws."""

    def __init__(self, real, given=None):
        self.real, self.given, self.lists = real, given, []

    def __call__(self, labels):
        if self.given is not None:
            pos, neg = [], []
            for (p, n), l in zip(self.given, labels):
                for out, index in ((pos, p), (neg, n)):
                    mask = torch.zeros_like(l, dtype=torch.uint8)
                    mask[index] = 1
                    out.append(mask)
            return pos, neg
        pos, neg = self.real(labels)
        self.lists = [(torch.where(p)[0], torch.where(n)[0]) for p, n in zip(pos, neg)]
        return pos, neg


def train_forward(model, images, targets, given=None):
    """Losses of one step; given: proposals and samples of another run of the same step."""
    model.train()
    kept = Kept()
    batch, targets = model.transform(images, targets)
    kept["scaled_boxes"] = [t["boxes"] for t in targets]
    feats = features_of(model, batch.tensors, kept)
    rpn, roi = model.rpn, model.roi_heads
    anchors, counts, logits, deltas, decoded = rpn_of(model, batch, feats, kept)
    with torch.no_grad():
        proposals, scores = rpn.filter_proposals(decoded, logits, batch.image_sizes, counts)
    if given is not None:
        proposals = [p.to(decoded.dtype) for p in given["proposals"]]
    kept["proposals"], kept["objectness"] = proposals, scores
    matches = rpn_matches(rpn, anchors, targets)
    labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
    if given is not None:
        labels = given["rpn_labels"]
        matched = [t["boxes"][m.clamp(min=0)] if len(t["boxes"]) else torch.zeros_like(a)
                   for t, m, a in zip(targets, given["rpn_matches"], anchors)]
    kept["rpn_matches"], kept["rpn_labels"] = matches, labels
    regression = rpn.box_coder.encode(matched, anchors)
    sampler = rpn.fg_bg_sampler
    rpn.fg_bg_sampler = Recorder(sampler, given and given["rpn_samples"])
    loss_objectness, loss_rpn_box_reg = rpn.compute_loss(logits, deltas, labels, regression)
    kept["rpn_samples"], rpn.fg_bg_sampler = rpn.fg_bg_sampler.lists, sampler
    sampler = roi.fg_bg_sampler
    roi.fg_bg_sampler = Recorder(sampler, given and given["roi_samples"])
    candidates = [torch.cat((p, t["boxes"])) for p, t in zip(proposals, targets)]
    kept["roi_match"] = [roi.proposal_matcher(box_ops.box_iou(t["boxes"], c)) if len(t["boxes"]) else
                         torch.full((len(c),), -1) for t, c in zip(targets, candidates)]
    rois, _, roi_labels, roi_targets = roi.select_training_samples(proposals, targets)
    kept["roi_samples"], roi.fg_bg_sampler = roi.fg_bg_sampler.lists, sampler
    if given is not None:
        roi_labels = given["roi_labels"]
    kept["roi_boxes"], kept["roi_labels"], kept["roi_targets"] = rois, roi_labels, roi_targets
    class_logits, box_deltas = head_of(model, feats, rois, batch.image_sizes, kept)
    loss_classifier, loss_box_reg = roi_heads.fastrcnn_loss(class_logits, box_deltas, roi_labels, roi_targets)
    losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg, "loss_objectness": loss_objectness,
              "loss_rpn_box_reg": loss_rpn_box_reg}
    return losses, kept


def rpn_matches(rpn, anchors, targets):
    out = []
    for a, t in zip(anchors, targets):
        if len(t["boxes"]) == 0:
            out.append(torch.full((len(a),), -1))
        else:
            out.append(rpn.proposal_matcher(rpn.box_similarity(t["boxes"], a)))
    return out


# ---- writing ----------------------------------------------------------------------------------------------------

class File:
    def __init__(self, store):
        self.store, self.tensors, self.reduced, self.noise = store, {}, {}, {}

    def put(self, name, t, parameter=False):
        a = t.detach().cpu().numpy().copy()
        full, k = ("param_full", "param_samples") if parameter else ("full", "samples")
        if a.dtype in (np.int64, np.bool_):
            a = a.astype(np.int32)
        if a.dtype == np.float64:
            a = a.astype(np.float32)
        keep = any(x in name for x in (".proposals.", ".roi_boxes", ".image_sizes", ".boxes.", ".scores.", ".labels."))
        if a.size <= self.store[full] or keep:
            self.tensors[name] = np.ascontiguousarray(a)
            return
        n, k = a.size, self.store[k]
        s = max(1, n // k)
        while math.gcd(s, n) != 1:
            s -= 1
        d = a.reshape(-1).astype(np.float64)
        count = min(k, (n + s - 1) // s)
        self.tensors[name + "#r"] = np.concatenate([[d.sum(), math.sqrt(float(d @ d)), np.abs(d).max(), n, s],
                                                    d[np.arange(count) * s]])
        self.reduced[name] = list(a.shape)

    def put_noise(self, name, f32, f64):
        d = (f32.detach().double() - f64.detach().double()).abs()
        d = d[torch.isfinite(d)]
        self.noise[name] = float(f"{d.max().item() if d.numel() else 0.0:.3g}")


LISTED = [f"c{i}" for i in range(2, 6)] + [f"p{i}" for i in range(2, 7)] + \
    [f"rpn_{x}.{l}" for l in range(5) for x in ("logits", "deltas")] + ["roi_align", "box_feature", "class_logits",
                                                                       "box_deltas"]


def put_phase(file, phase, kept, exact, names):
    for name in names:
        file.put(f"out.{phase}.{name}", kept[name])
        if exact is not None and name in exact:
            file.put_noise(f"out.{phase}.{name}", kept[name], exact[name])


def record_eval(file, model, images, double):
    kept = evaluate(model, as_input(images, torch.float32))
    exact = evaluate(double, as_input(images, torch.float64), kept["proposals"])
    put_phase(file, "eval", kept, exact, ["batch", "decoded"] + LISTED)
    for name in ("image_sizes", "anchors", "roi_levels"):
        file.put(f"out.eval.{name}", kept[name])
    for i, r in enumerate(kept["result"]):
        file.put(f"out.eval.proposals.{i}", kept["proposals"][i])
        file.put(f"out.eval.objectness.{i}", kept["objectness"][i])
        for k in ("boxes", "scores", "labels"):
            file.put(f"out.eval.{k}.{i}", r[k])
        for k, t in zip(("boxes", "scores", "labels"), kept["nms_in"][i]):
            file.put(f"out.eval.nms_in_{k}.{i}", t)
    return {"detections": [len(r["boxes"]) for r in kept["result"]],
            "proposals": [len(p) for p in kept["proposals"]],
            "nms_input": [len(s[0]) for s in kept["nms_in"]]}


def record_step(file, step, kept, targets):
    for i in range(len(targets)):
        for part in ("rpn", "roi"):
            for side, index in zip(("pos", "neg"), kept[f"{part}_samples"][i]):
                file.tensors[f"in.step{step}.{part}_{side}.{i}"] = index.numpy().astype(np.int32)
        file.tensors[f"in.step{step}.proposals.{i}"] = kept["proposals"][i].detach().numpy().copy()


def record_train(file, kept, exact):
    put_phase(file, "train", kept, exact, ["decoded"] + LISTED)
    file.put("out.train.roi_levels", kept["roi_levels"])
    for i in range(len(kept["proposals"])):
        for name in ("proposals", "objectness", "scaled_boxes", "roi_match", "roi_boxes", "roi_labels", "roi_targets"):
            file.put(f"out.train.{name}.{i}", kept[name][i])
        m = kept["rpn_matches"][i]
        index = torch.where(m != -1)[0]
        file.tensors[f"out.train.rpn_match_index.{i}"] = index.numpy().astype(np.int32)
        file.tensors[f"out.train.rpn_match_value.{i}"] = m[index].numpy().astype(np.int32)


def record_gradients(file, model, kept, double, exact):
    for name in LISTED:
        if name.startswith("rpn_") or kept[name].grad is None:
            continue
        file.put(f"out.grad_act.{name}", kept[name].grad)
        file.put_noise(f"out.grad_act.{name}", kept[name].grad, exact[name].grad)
    exact_grads = {n: p.grad for n, p in double.named_parameters()}
    relative = []
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        file.put(f"out.grad.{name}", p.grad, True)
        file.put_noise(f"out.grad.{name}", p.grad, exact_grads[name])
        relative.append(file.noise[f"out.grad.{name}"] / max(p.grad.abs().max().item(), 1e-30))
    return {"max": max(relative), "median": float(np.median(relative))} if relative else {}


def record_steps(file, case, model, images, targets, double):
    sgd, info = case["sgd"], {}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, sgd["lr"], momentum=sgd["momentum"], weight_decay=sgd["weight_decay"])
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    delta_max = {}
    for step in range(1, case["train_steps"] + 1):
        torch.manual_seed(case["torch_seed"] + step - 1)
        state = torch.get_rng_state()
        losses, kept = train_forward(model, as_input(images, torch.float32), copy.deepcopy(targets))
        record_step(file, step, kept, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        if step == 1:
            torch.set_rng_state(state)
            exact_targets = [{"boxes": t["boxes"].double(), "labels": t["labels"]} for t in targets]
            exact_losses, exact = train_forward(double, as_input(images, torch.float64), exact_targets, kept)
            sum(exact_losses.values()).backward()
            record_train(file, kept, exact)
            info = record_gradients(file, model, kept, double, exact)
            for k, v in losses.items():
                file.put_noise(f"out.step1.{k}", v, exact_losses[k])
        for k, v in losses.items():
            file.tensors[f"out.step{step}.{k}"] = v.detach().numpy().reshape(1)
        clip = sgd["clip_norm"] if sgd["clip_norm"] is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(trainable, clip)
        file.tensors[f"out.step{step}.grad_norm"] = norm.numpy().reshape(1)
        optimizer.step()
        if step not in (1, 3):
            continue
        delta_max[f"step{step}"] = {}
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            file.put(f"out.step{step}.param.{name}", p, True)
            delta_max[f"step{step}"][name] = float(f"{(p - start[name]).abs().max().item():.4g}")
            if sgd["momentum"]:
                file.put(f"out.step{step}.momentum.{name}", optimizer.state[p]["momentum_buffer"], True)
        for name, b in model.named_buffers():
            if name.endswith(("running_mean", "running_var")) and case["arch"]["body_norm"] != "frozen":
                file.put(f"out.step{step}.buffer.{name}", b, True)
    return delta_max, info


def float32_scale(size, low, high, target=None, fixed=None, real=transform._resize_image_and_masks):
    """The resize of torchvision up to 0.15: quotients in float32."""
    if fixed is not None:
        return real(size, low, high, target, fixed)
    h, w = size.shape[-2:]
    a = np.float32(low) / np.float32(min(h, w))
    b = np.float32(high) / np.float32(max(h, w))
    s = float(min(a, b))
    return real(size, low, high, target, (math.floor(w * s), math.floor(h * s)))


def settle(weights, case, images):
    """Spread the outputs, so that scores have no ties and several classes win."""
    model, spread = weights.model, case["spread"]
    x = as_input(images, torch.float32)
    weights.settle_statistics(lambda: evaluate(model, x))
    kept = evaluate(model, x)
    for part, name in (("rpn_logits", "rpn.head.cls_logits.weight"), ("rpn_deltas", "rpn.head.bbox_pred.weight")):
        std = torch.cat([kept[f"{part}.{l}"].flatten() for l in range(5)]).std().item()
        weights.scale(name, spread[part] / max(std, 1e-6))
    weights.settle_statistics(lambda: evaluate(model, x))
    kept = evaluate(model, x)
    for part, name in (("class_logits", "cls_score"), ("box_deltas", "bbox_pred")):
        std = kept[part].std(0).mean().item() if len(kept[part]) > 1 else 1.0
        weights.scale(f"roi_heads.box_predictor.{name}.weight", spread[part] / max(std, 1e-6))
    kept = evaluate(model, x)
    if len(kept["class_logits"]):
        name = "roi_heads.box_predictor.cls_score.bias"
        bias = model.state_dict()[name]
        bias.sub_(0.9 * kept["class_logits"].mean(0))
        weights.values[name] = True


def record(case, folder):
    case = merged(case)
    torch.manual_seed(0)
    transform._resize_image_and_masks = REAL_RESIZE if case["scale_rule"] == "f64" else float32_scale
    images, targets = make_images(case)
    model = make_model(case)
    with torch.no_grad():
        weights = Weights(model, case)
        settle(weights, case, images)
    file = File(case["store"])
    file.tensors.update(weights.tensors())
    for i, (image, target) in enumerate(zip(images, targets)):
        file.tensors[f"in.image.{i}"] = image
        file.tensors[f"in.boxes.{i}"] = target["boxes"].numpy()
        file.tensors[f"in.labels.{i}"] = target["labels"].numpy()
    double = copy.deepcopy(model).double()
    case["info"] = record_eval(file, model, images, double)
    delta_max, case["info"]["grad_noise_rel"] = {}, {}
    if case["train_steps"]:
        delta_max, case["info"]["grad_noise_rel"] = record_steps(file, case, model, images, targets, double)
    meta = {"kind": "faster_rcnn_golden", "config": case, "reduced": file.reduced, "noise": file.noise,
            "delta_max": delta_max,
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "threads": 2}}
    case["case"] = case["name"]
    save_file(file.tensors, f"{folder}/{case['name']}.safetensors",
              {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()})
    print(case["name"], json.dumps(case["info"]), flush=True)


REAL_RESIZE = transform._resize_image_and_masks


def main():
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    with open(sys.argv[1], encoding="utf-8") as f:
        cases = json.load(f)
    for case in cases:
        if len(sys.argv) == 3 or case["name"] in sys.argv[3:]:
            record(case, sys.argv[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())

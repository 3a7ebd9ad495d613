"""Attribution methods: one pass in, signed maps out. The only package that imports captum."""

from attrscore.methods.cams import (
    ActivationXGradient,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    XGradCAM,
)
from attrscore.methods.from_captum import FromCaptum
from attrscore.methods.gradients import InputXGradient, Saliency
from attrscore.methods.guided import GuidedGradCAM, guided_backprop
from attrscore.methods.integrated_gradients import IntegratedGradients

__all__ = [
    "ActivationXGradient",
    "EigenGradCAM",
    "FromCaptum",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedGradCAM",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "RandomCAM",
    "Saliency",
    "XGradCAM",
    "guided_backprop",
]

"""Attribution methods: one pass in, signed maps out. The only package that imports captum."""

from attrscore.methods.cams import GradCAM, HiResCAM, grad_cam, hires_cam
from attrscore.methods.from_captum import FromCaptum
from attrscore.methods.gradients import Saliency
from attrscore.methods.guided import GuidedGradCAM, guided_backprop
from attrscore.methods.integrated_gradients import IntegratedGradients

__all__ = [
    "FromCaptum",
    "GradCAM",
    "GuidedGradCAM",
    "HiResCAM",
    "IntegratedGradients",
    "Saliency",
    "grad_cam",
    "guided_backprop",
    "hires_cam",
]

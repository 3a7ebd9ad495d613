"""Attribution methods: one pass in, signed maps out. The only package that imports captum.

What each map means, its sign, its cost and what it cannot explain; more in each docstring.

===================== ================================ ======== =============== ==============
method                the map is                       sign     cost            cannot explain
===================== ================================ ======== =============== ==============
grad_cam              activation x mean gradient       signed   P               blocked
hires_cam             activation x gradient            signed   P               blocked
grad_cam_plus_plus    grad_cam by shares in the score  signed   P               blocked
xgrad_cam             grad_cam, mean by activation     signed   P               blocked
layer_cam             activation x positive gradient   signed   P               blocked
eigen_grad_cam        main component of hires_cam      signed   P and an SVD    blocked
activation_x_gradient hires_cam by channel             signed   P               blocked
finer_cam             grad_cam less that of like class signed   P of its own    blocked, no class
random_cam            activation x random weights      signed   P               blocked
attention             attention of what is read        positive P               no attention
attention_rollout     attention through all blocks     positive P               no attention
grad_attention        the same where it raises score   positive P               no attention
legrad                gradient by attention            positive P               no attention
saliency              gradient by pixel                absolute P               blocked
input_x_gradient      pixel x gradient                 signed   P               blocked
guided_backprop       gradient, positive at each ReLU  signed   P + B           not nn.ReLU
deconvolution         the same, ReLUs not gated        signed   P + B           not nn.ReLU
guided_grad_cam       guided_backprop x grad_cam       signed   P + B           not nn.ReLU
integrated_gradients  share in F(x) - F(baseline)      signed   steps (F + B)   blocked
guided_ig             the same, around steep ways      signed   steps (F + B)   blocked
gradient_shap         the same, smoothed by noise      signed   samples (F + B) blocked
layer_conductance     its flow through each unit       signed   (steps + 1) P   blocked
smooth_grad           another map over noisy inputs    of that  samples x that  as that
deep_lift             share, by changes of activations signed   2 (F + B) + F   bent
deep_lift_shap        the same, cells as baselines     signed   each as one     bent, no pool
lrp                   relevance of each pixel          signed   2 F + B         no chain
layer_lrp             relevance of each unit           signed   2 F + B         no chain
occlusion             loss where a window is hidden    signed   F a position    -
feature_ablation      loss where a part is hidden      signed   F a part        -
rise                  score where a pixel is shown     signed   samples F       -
score_cam             activation x score it leaves     positive C F a layer     -
ablation_cam          activation x loss without it     signed   C F a layer     -
kernel_shap           Shapley value of each part       signed   (samples + 1) F -
captum                as its algorithm says            of that  of that         as above
kept                  what an earlier job kept         of that  none            -
===================== ================================ ======== =============== ==============

Sign: below 0, *signed* maps speak against the score; which part counts is the heat's affair.

Cost, for a batch: F is a forward pass, B a backward pass; P is the one F and B that all methods
with a P share, at all layers. Layer methods cost the same for any number of layers, ``captum``
apart.

Cannot explain: *blocked*, models through which no gradient flows (a detach(), no_grad() or
argmax). *not nn.ReLU*, those, and models with any other activation. *bent*, those, and models
with activations other than the modules that Captum rescales, products of features, modules that
run twice, overlapping max pooling, and targets that are not linear in the output. *no chain*,
those, and all but plain chains of convolutions, linear layers, normalisation, pooling, ReLU and
Tanh, and targets made of several outputs. They are refused, with the reason.
"""

from attrscore.methods.attention import Attention, AttentionRollout, GradAttention, LeGrad
from attrscore.methods.cams import (
    ActivationXGradient,
    EigenGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    XGradCAM,
)
from attrscore.methods.captum_any import FromCaptum
from attrscore.methods.deep_lift import DeepLift, DeepLiftShap
from attrscore.methods.gradients import InputXGradient, Saliency, SmoothGrad
from attrscore.methods.guided import (
    Deconvolution,
    GuidedBackprop,
    GuidedGradCAM,
    guided_backprop,
)
from attrscore.methods.kept_maps import KeptMaps
from attrscore.methods.lrp import LRP, LayerLRP
from attrscore.methods.path import GradientShap, GuidedIG, IntegratedGradients, LayerConductance
from attrscore.methods.perturbation import (
    RISE,
    AblationCAM,
    FeatureAblation,
    KernelShap,
    Occlusion,
    ScoreCAM,
)

__all__ = [
    "LRP",
    "RISE",
    "AblationCAM",
    "ActivationXGradient",
    "Attention",
    "AttentionRollout",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "EigenGradCAM",
    "FeatureAblation",
    "FinerCAM",
    "FromCaptum",
    "GradAttention",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCAM",
    "GuidedIG",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KeptMaps",
    "KernelShap",
    "LayerCAM",
    "LayerConductance",
    "LayerLRP",
    "LeGrad",
    "Occlusion",
    "RandomCAM",
    "Saliency",
    "ScoreCAM",
    "SmoothGrad",
    "XGradCAM",
    "guided_backprop",
]

"""What is explained: one scalar a sample. Importing this package registers the built-in targets."""

from attrscore.targets.classes import (
    Given,
    Index,
    Label,
    Predicted,
    class_scores,
    logit,
    logprob,
    margin,
    scores_of,
    target_of,
)
from attrscore.targets.embeddings import (
    Contrast,
    Cosine,
    Embedding,
    GroupMean,
    Norm,
    Probe,
)
from attrscore.targets.regions import Region

__all__ = [
    "Contrast",
    "Cosine",
    "Embedding",
    "Given",
    "GroupMean",
    "Index",
    "Label",
    "Norm",
    "Predicted",
    "Probe",
    "Region",
    "class_scores",
    "logit",
    "logprob",
    "margin",
    "scores_of",
    "target_of",
]

"""What is explained: one scalar a sample. Importing this package registers the built-in targets."""

from attrscore.targets.classes import Index, Label, Predicted, logit, logprob, margin
from attrscore.targets.embeddings import (
    Contrast,
    Cosine,
    Embedding,
    GroupMean,
    Norm,
    Probe,
)

__all__ = [
    "Contrast",
    "Cosine",
    "Embedding",
    "GroupMean",
    "Index",
    "Label",
    "Norm",
    "Predicted",
    "Probe",
    "logit",
    "logprob",
    "margin",
]

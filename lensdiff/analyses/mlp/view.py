"""How everything about feed-forward layers is drawn."""

from lensdiff.analyses.mlp import view_coherence as view_coherence
from lensdiff.analyses.mlp import view_concepts as view_concepts
from lensdiff.analyses.mlp import view_rotation as view_rotation

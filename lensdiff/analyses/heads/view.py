"""How everything about heads is drawn."""

from lensdiff.analyses.heads import view_heads as view_heads
from lensdiff.analyses.heads import view_verbs as view_verbs

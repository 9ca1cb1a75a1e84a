"""How everything about attention is drawn."""

from lensdiff.analyses.attention import view_patterns as view_patterns
from lensdiff.analyses.attention import view_shift as view_shift

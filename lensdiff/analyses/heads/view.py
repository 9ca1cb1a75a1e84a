"""How everything about heads is drawn."""

from lensdiff.analyses.heads import view_pairs as view_pairs
from lensdiff.analyses.heads import view_readings as view_readings
from lensdiff.analyses.heads import view_verbs as view_verbs

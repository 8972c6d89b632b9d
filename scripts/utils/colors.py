"""Colors of masks and curves, told apart by color-blind readers (after Okabe and Ito); classes have other colors
than sources.
"""

from __future__ import annotations

# where a mask or a curve comes from; the control's purple is Paul Tol's, darker than the others
SOURCE_COLORS = {"label": "#2FBF71", "teacher": "#56B4E9", "control": "#AA4499", "student": "#F59E0B"}
CLASS_COLORS = ("#F0E442", "#E15759", "#CC79A7", "#4C72FF", "#B07AA1", "#9C755F")  # of the foreground classes 1, 2, ...

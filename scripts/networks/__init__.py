"""The networks: SAM and LiteMedSAM with LoRA as the teacher, TinyUSFM as the student, and their weights.

The teacher is built from a base (`sam`, `lite_medsam`) and an adapter (`lora`, `adapters`) in `teacher`, and frozen in
`frozen_teacher`. The student is `tinyusfm`, built and loaded in `student`. Files are read by `weights`.
"""

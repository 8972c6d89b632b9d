"""The networks: TinyUSFM (student), SAM with LoRA and LiteMedSAM (teachers), and the reading of their weights."""

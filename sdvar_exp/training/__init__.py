"""How the embedded pair and its classifier were made: `python scripts/train.py part=…`, see docs/model_card.md."""

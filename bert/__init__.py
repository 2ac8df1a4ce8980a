"""The encoder: a BERT written by hand, its checkpoints and its tokenizer."""

from bert.config import BertConfig
from bert.model import BertModel
from bert.tokenizer import BertTokenizer

__all__ = ["BertConfig", "BertModel", "BertTokenizer"]

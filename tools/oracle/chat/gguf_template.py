"""Writes the chat template of a GGUF file: python gguf_template.py MODEL.gguf OUT.jinja"""

import sys

import gguf

field = gguf.GGUFReader(sys.argv[1]).fields["tokenizer.chat_template"]
with open(sys.argv[2], "w", encoding="utf-8", newline="") as f:
    f.write(bytes(field.parts[field.data[0]]).decode())

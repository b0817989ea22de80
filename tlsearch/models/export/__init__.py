"""A trained model in the formats of others: timm, ONNX, torch.export, a Hugging Face folder.

Each is written to a draft, tried from the bytes of image files in a process that can't import tlsearch, and
put into place only if it predicts the same.
"""

"""Encoders as ONNX files: what a file says of itself, whether it fits its description, and calls by onnxruntime."""

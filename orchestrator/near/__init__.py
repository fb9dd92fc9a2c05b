"""The newest checkpoint in the memory of nodes: on the one that wrote it and on one other. The bucket is only the second place to look.

After Gemini (Wang et al., SOSP 2023). Nothing here decides anything: which checkpoint is real the log says, and every byte read from
memory is proven by the manifest's CRC32C as if it had come from the bucket. No torch, and Ray only through who uses it (on_ray).
"""

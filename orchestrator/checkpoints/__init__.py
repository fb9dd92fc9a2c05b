"""Checkpoints in the bucket: what a whole one is (manifest), how any part is read (reading), how one becomes real and which stay (keeping).

Ranks upload `checkpoints/<step>-<n>/rank-00003.safetensors` and a receipt `rank-00003.json` that names every slice in it; rank 0
puts the receipts together into `manifest.json`, written last with a conditional PUT; the driver's log entry makes it real. World
size and ZeRO stage appear nowhere: a slice is (parameter, kind, start, length) with its byte range and CRC32C. No torch here.
"""

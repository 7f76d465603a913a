"""Rollouts with the real tool: `rollout.rollout` is the way in.

settings.py says how they are decoded. rollout.py lets the host ask the tool, token by token; batched_rollout.py keeps
model and tool on the device, with the kernel in rollout_kernel.py; sampling.py draws tokens; prefill.py plans the
passes over known tokens, and drafting.py says what is likely to come and what a pass can decide; agreement.py holds the
ways through one model against each other. The decoders themselves, which step a backbone, are in backbones/.
"""

# A CPU image: every command of the suite, without a GPU's kernels and without the sandbox of code fixing.
#     docker build -t length-generalization .
#     docker run --rm length-generalization rollout --ckpt_path add --prompt 123456+789
#     docker run --rm -v "$PWD/runs:/suite/runs" length-generalization fit --config mult
FROM python:3.11-slim
WORKDIR /suite
RUN pip install --no-cache-dir "torch>=2.11" --index-url https://download.pytorch.org/whl/cpu
COPY . .
RUN pip install --no-cache-dir -e .
ENTRYPOINT ["length-generalization"]

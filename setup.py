"""Install with `pip install -e .`; the tests' references come with `pip install -e '.[test]'`."""

from setuptools import find_packages, setup

setup(
    name="minimal-multitask-bert",
    version="0.2.0",
    description="A hand-written BERT for several tasks at once, trained with gradient surgery",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["bert", "heads", "optim", "optim.*", "data", "training", "runtime", "web"]),
    py_modules=["train_multitask", "evaluate", "predict", "serve", "export", "minimal_bert"],
    entry_points={"console_scripts": ["minimal-bert = minimal_bert:main"]},
    package_data={"data": ["sample/*.csv"], "web": ["page.html"]},
    install_requires=[
        "torch>=2.10,<2.14",
        "numpy>=1.26",
        "scipy>=1.11",  # Pearson's r, Spearman's rho; non-negative least squares, for surgeries
        "tokenizers>=0.20",  # WordPiece
        "safetensors>=0.4.3",  # checkpoints that cannot run code
        "huggingface_hub>=0.34",  # the cache that every other tool shares; the command hf, which bert/hub.py advises
        "filelock>=3.20.1",  # locks a run's folder for one process, on every system; follows no link
        "tomli>=2; python_version < '3.11'",  # task files
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # a process for each core
            "hypothesis>=6.100",
            "setuptools>=77",  # builds the package that is tested as installed
            "scikit-learn>=1.4",  # F1
            "transformers>=5",  # BertModel, the reference of bert/, and a peer of benchmarks/
            "sentence-transformers>=5.2",  # embeddings, and a reader of what a run writes
            "torchjd[full]>=0.18,<0.19",  # the reference of most surgeries, with its solvers, and a peer
            "minimal-multitask-bert[pictures,tensorboard,export,serve,search]",
        ],
        "pictures": ["matplotlib>=3.8"],  # and the page of experiments.report
        "tensorboard": ["tensorboard>=2.17"],  # torch.utils.tensorboard needs it
        "export": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"],  # torch.onnx needs the first two
        "serve": ["fastapi>=0.115", "pydantic>=2.8", "uvicorn>=0.30"],  # pydantic is fastapi's own; we use FailFast
        "search": ["optuna>=5,<6"],  # draws the settings that experiments.search tries
    },
)

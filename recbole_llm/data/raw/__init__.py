"""Raw files of the sources to atomic files: what ``recbole-llm prepare`` runs."""

"""One file a paper. Classes are loaded through ``recbole_llm.registry``."""

"""A model in users' hands: tagging text, what the package ships, a spaCy component, entities in colour."""

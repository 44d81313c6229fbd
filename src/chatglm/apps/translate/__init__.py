"""Translation: `Translator` and what it is made of."""

from chatglm.apps.translate.glossary import Glossary
from chatglm.apps.translate.memory import Memory
from chatglm.apps.translate.translator import Translation, Translator

__all__ = ["Glossary", "Memory", "Translation", "Translator"]

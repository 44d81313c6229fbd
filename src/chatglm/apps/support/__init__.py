"""Customer service: answers from a knowledge base with its sources, or hands over to a person."""

from chatglm.apps.support.desk import Desk, HandOver, Session, Turn
from chatglm.apps.support.reply import Citation, Reply
from chatglm.apps.support.rules import Rules
from chatglm.apps.support.service import CustomerService

__all__ = [
    "Citation",
    "CustomerService",
    "Desk",
    "HandOver",
    "Reply",
    "Rules",
    "Session",
    "Turn",
]

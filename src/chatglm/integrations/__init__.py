"""The published models inside other libraries; each module is imported by name, never by the rest
of the package.
"""

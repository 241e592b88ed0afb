"""Commands about the whole line: they join the stages of the other packages."""

import web_memory_names

web_memory_names.check(__file__)

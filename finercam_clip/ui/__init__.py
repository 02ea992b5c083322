"""A page to play with, in the browser: `finercam-clip ui`. It needs Gradio, the extra `ui`.

    ask      a question to its answers, without a page: `ask`, `Session`, `model_named`
    results  answers to HTML, pictures and numbers: `html`, `message`, `picture`, `numbers`
    page     the layout of the page: `build`
    serve    the page on a port of this machine: `serve`, `launch`, `check_installed`

The functions are imported from these modules, as in `from finercam_clip.ui.ask import ask`. The package itself imports
nothing, because its modules `ask` and `serve` would otherwise disappear behind the functions of the same name.

An image is encoded once and kept in the session of its page. Each further question is a matrix product. Pictures travel
inside the page, so only uploads ever lie on the disk.
"""

"""A page to play with, in the browser: `finercam-clip ui`. It needs Gradio, the extra `ui`.

    models   the models by name, those on this machine, the one that comes first: `first_model`, `downloaded`
    ask      a question to its answers, without a page: `ask`, `Session`
    results  answers to HTML, pictures and numbers: `html`, `message`, `picture`, `numbers`
    strip    the visitor's images as small pictures in a row
    layout   what stands on the page
    events   what each click does
    page     the page, put together: `build`
    guard    who may ask the page, and with what
    serve    the page on a port of this machine: `serve`, `launch`, `check_installed`

The functions are imported from these modules, as in `from finercam_clip.ui.ask import ask`. The package itself imports
nothing, because its modules `ask` and `serve` would otherwise disappear behind the functions of the same name.

An image is encoded once; the last few are kept in the session of their page. Each further question is a matrix product.
Pictures travel inside the page, so only uploads ever lie on the disk.
"""

"""The script of `streamlit run`, alone in its folder.

Beside `pages/` Streamlit would take that folder for its own, and run a page's module bare for whoever comes first by a
deep link.
"""

from tars.dashboard.app import main

if __name__ == "__main__":
    main()

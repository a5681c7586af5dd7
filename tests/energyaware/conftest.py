import pytest

from tests.tiny import FAMILIES_TINY


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of the tiny models by family, each made when it is first asked for."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = FAMILIES_TINY[family](tmp_path_factory.mktemp(family))
        return made[family]

    return folder

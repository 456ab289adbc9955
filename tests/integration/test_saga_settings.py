"""Where the settings come from with which sagas are driven."""

from polysaga.config import SagaSettings, parse_settings
from tests.fixtures.programs import PLACE_ORDER, MigratedUrls, Program


async def test_sagas_are_driven_as_the_settings_of_the_databases_say(files: MigratedUrls) -> None:
    program = Program(files, PLACE_ORDER)
    sagas, databases = program.sagas, program.databases
    given = {"databases": {name: {"url": url} for name, url in files.items()}, "sagas": {"lease": 7.0}}
    assert sagas.settings == SagaSettings()
    async with databases.open(parse_settings(given)):
        assert sagas.settings.lease == 7.0, "for what needs the databases only, such as `inspector`"
        async with sagas.open():
            assert sagas.settings.lease == 7.0
        async with sagas.open(SagaSettings(lease=9.0)):
            assert sagas.settings.lease == 9.0
    assert sagas.settings == SagaSettings()

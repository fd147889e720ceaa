"""When an engine is asked for a sign of life, and when it counts as wedged; time is a number."""

from serve.ollama.vitals import Vitals


def vitals() -> Vitals:
    return Vitals(after_s=60, timeout_s=30, stall_s=600, now=0)


def test_an_idle_engine_is_asked_and_well_when_it_answers() -> None:
    engine = vitals()
    assert engine.verdict(59) == "well"
    assert engine.verdict(60) == "ask"
    engine.asked(60)
    assert engine.verdict(61) == "waiting"
    engine.beat(62)
    assert engine.verdict(62) == "well"
    assert engine.verdict(121) == "well"
    assert engine.verdict(122) == "ask"


def test_an_idle_engine_that_leaves_a_canary_unanswered_is_wedged() -> None:
    engine = vitals()
    engine.asked(60)
    assert engine.verdict(89.9) == "waiting"
    assert engine.verdict(90) == "wedged"
    engine.started(95)
    assert engine.verdict(95) == "well"


def test_bytes_of_any_call_are_a_sign_of_life() -> None:
    engine = vitals()
    engine.begun(10)
    engine.begun(11)
    for now in range(20, 2000, 50):
        engine.beat(now)
        assert engine.verdict(now + 49) == "well"


def test_a_long_prompt_is_no_wedge() -> None:
    engine = vitals()
    engine.begun(10)
    assert engine.verdict(70) == "ask"
    engine.asked(70)
    assert engine.verdict(609) == "waiting"
    engine.beat(609)
    assert engine.verdict(610) == "well"


def test_all_calls_silent_for_long_and_the_canary_too_is_a_wedge() -> None:
    engine = vitals()
    engine.begun(10)
    engine.asked(70)
    assert engine.verdict(609) == "waiting"
    assert engine.verdict(610) == "wedged"


def test_silence_is_a_wedge_also_where_nothing_can_be_asked() -> None:
    engine = vitals()
    engine.begun(10)
    assert engine.verdict(70) == "ask"
    engine.spared(70)
    assert engine.verdict(129) == "well"
    assert engine.verdict(130) == "ask"
    assert engine.verdict(610) == "wedged"


def test_clients_that_leave_are_no_sign_of_life_nor_are_those_that_follow() -> None:
    engine = vitals()
    for now in range(10, 600, 50):
        engine.begun(now)
        engine.ended(now + 40, is_mute=True)
        if now == 60:
            assert engine.verdict(now + 45) == "ask"
            engine.asked(now + 45)
    engine.begun(650)
    assert engine.verdict(710) == "wedged"


def test_who_left_long_ago_does_not_make_the_next_call_late() -> None:
    engine = vitals()
    engine.begun(10)
    engine.ended(11, is_mute=True)
    engine.spared(60)
    engine.begun(7200)
    assert engine.verdict(7201) == "well"
    engine.ended(7202, is_mute=False)


def test_a_call_that_comes_while_an_idle_engine_is_asked_has_its_own_time() -> None:
    engine = vitals()
    engine.asked(7200)
    engine.begun(7201)
    assert engine.verdict(7300) == "waiting"
    assert engine.verdict(7800) == "wedged"


def test_an_engine_has_time_to_drop_what_its_last_client_left() -> None:
    engine = vitals()
    engine.begun(10)
    engine.asked(70)
    engine.ended(200, is_mute=True)
    assert engine.verdict(229) == "waiting"
    assert engine.verdict(230) == "wedged"


def test_an_engine_that_waits_for_a_reader_is_well() -> None:
    engine = vitals()
    engine.begun(10)
    engine.held(1, 20)
    assert engine.verdict(5000) == "well"
    engine.held(-1, 5000)
    assert engine.verdict(5059) == "well"
    assert engine.verdict(5060) == "ask"


def test_canaries_that_fail_one_after_another_are_a_wedge() -> None:
    engine = vitals()
    for now in (60, 100, 140):
        assert engine.verdict(now) == "ask"
        engine.asked(now)
        engine.failed(now + 1)
    assert engine.verdict(141) == "wedged"
    engine.beat(142)
    assert engine.verdict(142) == "well"

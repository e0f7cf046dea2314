"""When a run leaves its other threads out because the machine is crowded."""

from __future__ import annotations

import pytest

from albert_act_fast import native

pytestmark = pytest.mark.skipif(native.library is None, reason=str(native.why_no_cpp))
WINDOW, HOLD, LONGEST = 0.05, 0.25, 4.0


def stretch(wall=WINDOW, share=1.0, put_aside=100.0, rate=1000.0, threads=2):
    """Of a run whose threads had that share of the processors' time, so many interruptions a
    second, and computed so many rows a second."""
    return wall, share * threads * wall, put_aside * wall, rate * wall, threads


QUIET, CROWDED = stretch(put_aside=5), stretch(share=0.5)
# Alone, on trial: faster, or slower than all together.
WORTH_IT, NOT_WORTH_IT = stretch(share=0.5), stretch(share=0.5, rate=700.0)


def after(*stretches):
    return native.library.works_alone_after(*stretches)


def test_a_crowd_is_seen_by_both_signs():
    assert after(QUIET) == [False]
    assert after(CROWDED) == [True]
    # Other threads of this process, and interruptions that cost no time.
    assert after(stretch(share=0.9)) == [False]
    # Threads that wait asleep, as OMP_WAIT_POLICY=passive has them, leave time to nobody.
    assert after(stretch(share=0.5, put_aside=5)) == [False]


def test_short_runs_add_up():
    short = stretch(wall=WINDOW / 4 + 1e-9, share=0.5)
    assert after(*[short] * 4) == [False, False, False, True]
    # One quiet stretch among them does not hide the crowd, three do.
    calm = stretch(wall=WINDOW / 4 + 1e-9)
    assert after(calm, short, short, short)[-1]
    assert not after(calm, calm, calm, short)[-1]


def held(stretches, answer):
    """Appends to the stretches for as long as the decision holds; how many seconds that is."""
    step, count = 0.1, 0
    while True:
        # Quiet or crowded, nobody looks.
        more = stretch(wall=step, share=0.5 if answer else 1.0)
        if count > 100 or after(*stretches, more)[-1] is not answer:
            return count * step
        stretches.append(more)
        count += 1


def test_one_works_alone_for_a_while_and_longer_each_time_nothing_has_changed():
    stretches = []
    for expected in (HOLD, 2 * HOLD, 4 * HOLD, 8 * HOLD, LONGEST, LONGEST):
        stretches += [CROWDED, WORTH_IT]
        assert after(*stretches)[-2:] == [True, True]
        # The stretch in which the time is up is the last one's.
        assert expected - 0.1 - 1e-6 <= held(stretches, True) <= expected
        stretches.append(stretch(wall=0.1, share=0.5))
        assert not after(*stretches)[-1]
    # Once it is quiet again, the next crowd is looked at as the first was.
    stretches += [QUIET, CROWDED, WORTH_IT]
    assert held(stretches, True) <= HOLD


def test_one_goes_on_alone_only_where_it_gets_on():
    stretches = [CROWDED, NOT_WORTH_IT]
    assert after(*stretches) == [True, False]
    for _ in range(2):  # together while that holds
        stretches.append(stretch(wall=0.1, share=0.5))
        assert not after(*stretches)[-1]
    stretches.append(stretch(wall=0.1))
    assert after(*stretches, CROWDED)[-2:] == [False, True]

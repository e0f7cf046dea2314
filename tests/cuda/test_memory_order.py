"""The check of machine code finds what it is for. The listings are cut from what ptxas and LLVM
made of the kernels."""

from __future__ import annotations

import pytest
from support.memory_order import tokens, unordered

RELEASED = """
        /*46d0*/                   @P1 BRA 0x4720 ;                                   /* 0x0000 */
        /*4710*/                   STG.E desc[UR6][R4.64], R16 ;                      /* 0x0000 */
        /*4750*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;                      /* 0x0000 */
        /*47f0*/                   MEMBAR.ALL.GPU ;                                   /* 0x0000 */
        /*4820*/              @!P0 ATOMG.E.ADD.64.STRONG.GPU PT, R4, desc[UR6][R4.64], R10 ;
        /*4830*/              @!P0 CCTL.IVALL ;
        /*48f0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*4980*/                   LDG.E.64.STRONG.GPU R4, desc[UR6][R4.64+0x38] ;
        /*4990*/                   CCTL.IVALL ;
        /*49a0*/                   LDG.E.64 R4, desc[UR6][R4.64+0x38] ;
        /*49b0*/                   MEMBAR.ALL.GPU ;
        /*49c0*/                   STG.E.64.STRONG.GPU desc[UR6][R26.64+0x40], R24 ;
        /*49d0*/                   STS.64 [R2], R24 ;
        /*49e0*/                   REDUX.SUM UR4, R24 ;
        /*5d40*/                   EXIT ;
"""
KINDS = "store barrier release atomic acquire barrier ask acquire load release publish leaves"
ON_AMD = """
	global_store_dwordx2 v[2:3], v[4:5], s[8:9]
	s_barrier
	buffer_wbl2 sc1
	s_waitcnt vmcnt(0) lgkmcnt(0)
	global_atomic_add v1, v1, v2, s[24:25] sc0
	s_waitcnt vmcnt(0)
	buffer_inv sc1
	s_endpgm
"""


def test_listings_are_read():
    assert tokens(RELEASED) == KINDS.split()
    assert tokens(ON_AMD, amd=True) == "store barrier release atomic acquire leaves".split()
    assert unordered(tokens(RELEASED)) == unordered(tokens(ON_AMD, amd=True)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("STRONG.GPU PT", "STRONG.SM PT", "a scope narrower than the GPU"),
        ("LDG.E.64.STRONG.GPU", "LDG.E.64.STRONG.SM", "a scope narrower than the GPU"),
        ("MEMBAR.ALL.GPU", "MEMBAR.ALL.CTA", "no fence before atomic"),
        ("MEMBAR.ALL.GPU", "NOP", "no fence before atomic"),
        ("MEMBAR.ALL.GPU", "NOP", "no fence before publish"),
        ("CCTL.IVALL", "NOP", "no fence after atomic"),
        ("CCTL.IVALL", "NOP", "no fence after ask"),
        ("BAR.SYNC.DEFER_BLOCKING", "NOP", "no barrier between a store and the fence"),
    ],
)
def test_what_orders_nothing_is_found(right, wrong, problem):
    found = unordered(tokens(RELEASED.replace(right, wrong)))
    assert any(problem in said for said in found)


@pytest.mark.parametrize("gone", ["buffer_wbl2 sc1", "buffer_inv sc1", "s_barrier"])
def test_the_same_on_amd(gone):
    assert len(unordered(tokens(ON_AMD.replace(gone, "s_nop 0"), amd=True))) == 1

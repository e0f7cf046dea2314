// What the operators need of the interpreter.
#pragma once

namespace albert_act_fast::binding {

// A signal handler raised an exception, which the module keeps for Python.
struct Interrupted {};

// Runs the handlers of signals that have come in; throws Interrupted where one raises. To be called
// without the interpreter's lock.
void check_signals();

}  // namespace albert_act_fast::binding

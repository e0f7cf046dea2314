// What Python imports. Importing it registers the operators, the engine's among them; beside that
// it says what it was built from and runs on, and hands over what a signal handler raised during a
// run. Python's limited API only, so that one build serves several releases of Python as well.
#include <Python.h>

#include "module.h"

#include <limits>
#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "../engine/linear.h"
#include "../engine/threads.h"

namespace albert_act_fast::binding {
namespace {

// What a signal handler raised, until Python asks for it. Signal handlers run in the main thread
// alone, so there is at most one; only read and written with the interpreter's lock.
struct {
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
} raised;

PyObject* raise_interruption(PyObject*, PyObject*) {
    if (raised.type == nullptr) Py_RETURN_NONE;
    PyErr_Restore(raised.type, raised.value, raised.traceback);
    raised = {};
    return nullptr;
}

PyObject* build_info(PyObject*, PyObject*) {
#if defined(AAF_CUDA)
    const char* const cuda = AAF_CUDA;
#else
    const char* const cuda = "";
#endif
    // Whose products are never oneDNN's, whatever the number of rows.
    std::string own_products = "int8";
    for (const ScalarType dtype : {AAF_ENGINE_DTYPES(AAF_SCALAR_TYPE)})
        if (engine::kernel_rows(dtype) == std::numeric_limits<int64_t>::max())
            own_products += std::string(" ") + text(dtype);
    return Py_BuildValue("{ssssssssss}", "instruction_set", cpu::instruction_set(), "compiler",
                         AAF_COMPILER, "cuda", cuda, "oldest_torch", AAF_OLDEST_TORCH,
                         "own_products", own_products.c_str());
}

// For the tests: the decisions of `Crowding`, without a crowd.
PyObject* works_alone_after(PyObject*, PyObject* stretches) {
    engine::Crowding crowding;
    PyObject* const answers = PyList_New(0);
    for (Py_ssize_t i = 0; answers != nullptr && i < PyTuple_Size(stretches); ++i) {
        engine::Usage spent;
        long long threads;
        if (!PyArg_ParseTuple(PyTuple_GetItem(stretches, i), "ddddL", &spent.wall,
                              &spent.processors, &spent.put_aside, &spent.rows, &threads)) {
            Py_DecRef(answers);
            return nullptr;
        }
        crowding.worked(spent, threads);
        PyList_Append(answers, crowding.one_is_enough() ? Py_True : Py_False);
    }
    return answers;
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What the library was built from and runs on."},
    {"raise_interruption", raise_interruption, METH_NOARGS,
     "Raises what a signal handler raised during the run that it ended, if one did."},
    {"works_alone_after", works_alone_after, METH_VARARGS,
     "Whether one thread would work alone after each of these stretches of work: (seconds, "
     "processor seconds, how often a thread was put aside, rows, threads)."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_cpp_ops",
                          "The C++ operators.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

void check_signals() {
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool interrupted = PyErr_CheckSignals() != 0;
    if (interrupted) PyErr_Fetch(&raised.type, &raised.value, &raised.traceback);
    PyGILState_Release(state);
    if (interrupted) throw Interrupted();
}

}  // namespace albert_act_fast::binding

PyMODINIT_FUNC PyInit__cpp_ops() {
    using namespace albert_act_fast;
    PyObject* const module = PyModule_Create(&binding::definition);
    if (module == nullptr) return nullptr;
    const std::pair<const char*, int64_t> constants[] = {
        {"HALTING_WORKSPACE_HEADER", kHaltingWorkspaceHeader},
        {"MOST_THREADS_THAT_GIVE_WAY", engine::Crowding::kMostThreads},
        {"MAX_INT8_INPUTS", engine::kMaxInt8Inputs}};
    for (const auto& [name, value] : constants)
        if (PyModule_AddIntConstant(module, name, value) != 0) return nullptr;
    return module;
}

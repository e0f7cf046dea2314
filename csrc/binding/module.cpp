// What Python imports: the engine, and what this library was built from and runs on. Importing it
// also registers the operators. Tensors are asked for their memory as Python would ask them, so
// that here, too, nothing depends on more of torch than its stable ABI.
#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../common/check.h"
#include "engine_arguments.h"

namespace py = pybind11;

namespace albert_act_fast::binding {

using engine::Engine;
using engine::Layer;
using engine::Run;
using engine::View;

namespace {

// What is asked of Python in every call.
struct Python {
    py::object tensor, strided, float32, bfloat16, int64, main_thread, get_ident;

    static const Python& names() {
        PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Python> names;
        return names
            .call_once_and_store_result([] {
                const auto torch = py::module_::import("torch");
                const auto threading = py::module_::import("threading");
                return Python{torch.attr("Tensor"),       torch.attr("strided"),
                              torch.attr("float32"),      torch.attr("bfloat16"),
                              torch.attr("int64"),        threading.attr("main_thread"),
                              threading.attr("get_ident")};
            })
            .get_stored();
    }
};

std::string in_words(const py::handle& object) {
    return py::str(object).cast<std::string>();
}

// Keeps the tensor alive as long as its view is in use.
class Borrowed {
  public:
    Borrowed(const py::object& tensor, const std::string& name) : tensor_(tensor) {
        const Python& python = Python::names();
        if (!py::isinstance(tensor, python.tensor))
            throw py::type_error(name + ": got " + in_words(py::type::of(tensor)) +
                                 ", expected a tensor.");
        const auto device = tensor.attr("device").attr("type").cast<std::string>();
        AAF_CHECK(device == "cpu", name, ": is on ", device, ", expected a CPU tensor.");
        AAF_CHECK(py::object(tensor.attr("layout")).is(python.strided) &&
                      tensor.attr("is_contiguous")().cast<bool>() &&
                      !tensor.attr("is_neg")().cast<bool>(),
                  name, ": expected a contiguous tensor.");
        const py::object dtype = tensor.attr("dtype");
        AAF_CHECK(dtype.is(python.float32) || dtype.is(python.bfloat16) || dtype.is(python.int64),
                  name, ": got ", in_words(dtype), ", expected float32, bfloat16 or int64.");
        view_ = {reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>()),
                 dtype.is(python.float32)    ? ScalarType::Float
                 : dtype.is(python.bfloat16) ? ScalarType::BFloat16
                                             : ScalarType::Long,
                 tensor.attr("shape").cast<std::vector<int64_t>>()};
        AAF_CHECK(view_.data != nullptr || view_.count() == 0, name,
                  ": has no memory, expected a tensor with data.");
    }

    const View& view() const { return view_; }

  private:
    py::object tensor_;
    View view_;
};

// The fields of an object, which are named as those of albert_act_fast's LayerWeights.
class Fields {
  public:
    explicit Fields(const py::object& layer) : layer_(layer) {}

    py::object object(const char* name) const {
        const py::object value = py::getattr(layer_, name, py::none());
        if (value.is_none() && !py::hasattr(layer_, name))
            throw py::type_error(std::string("layer: has no ") + name +
                                 ", expected the fields of LayerWeights.");
        return value;
    }

    template <class Value>
    Value value(const char* name, const char* expected) const {
        const py::object given = object(name);
        try {
            return given.cast<Value>();
        } catch (const py::cast_error&) {
            throw py::type_error(std::string("layer.") + name + ": got " + in_words(given) +
                                 ", expected " + expected + ".");
        }
    }

    // Weight and bias, their memory valid as long as this is.
    void pair(const char* name, View (&into)[2]) {
        const auto given = object(name);
        if (!py::isinstance<py::sequence>(given) || py::len(given) != 2)
            throw py::type_error(std::string("layer.") + name + ": expected (weight, bias).");
        for (int i = 0; i < 2; ++i)
            into[i] = tensor(given[py::int_(i)], full(name) + (i == 0 ? " weight" : " bias"));
    }

    View tensor(const py::object& given, const std::string& name) {
        const bool is_tensor = py::isinstance(given, Python::names().tensor);
        held_.emplace_back(is_tensor ? given.attr("detach")().attr("contiguous")() : given, name);
        return held_.back().view();
    }

    static std::string full(const char* name) { return std::string("layer.") + name; }

  private:
    py::object layer_;
    std::vector<Borrowed> held_;
};

Activation activation_named(const std::string& name) {
    static const std::pair<const char*, Activation> names[] = {{"gelu", Activation::gelu},
                                                               {"gelu_tanh", Activation::gelu_tanh},
                                                               {"relu", Activation::relu},
                                                               {"silu", Activation::silu}};
    for (const auto& [known, activation] : names)
        if (name == known) return activation;
    refuse("layer.activation: got ", name, ", expected gelu, gelu_tanh, relu or silu.");
}

std::unique_ptr<Engine> make_engine(const py::object& weights, bool int8, bool onednn) {
    Fields fields(weights);
    Layer layer;
    fields.pair("query", layer.query);
    fields.pair("key", layer.key);
    fields.pair("value", layer.value);
    fields.pair("dense", layer.dense);
    fields.pair("ffn", layer.ffn);
    fields.pair("ffn_output", layer.ffn_output);
    fields.pair("attention_norm", layer.attention_norm);
    fields.pair("output_norm", layer.output_norm);
    fields.pair("halting", layer.halting);
    const py::object table = fields.object("distance_embedding");
    if (!table.is_none())
        layer.distance_embedding = fields.tensor(table, "layer.distance_embedding");
    layer.key_distances = fields.value<bool>("key_distances", "a bool");
    layer.heads = fields.value<int64_t>("heads", "a whole number");
    layer.activation = activation_named(fields.value<std::string>("activation", "a name"));
    layer.attention_eps = fields.value<double>("attention_eps", "a number");
    layer.output_eps = fields.value<double>("output_eps", "a number");
    check(layer);
    const py::gil_scoped_release release;
    return engine::make_engine(layer, int8 ? engine::Weights::int8 : engine::Weights::as_given,
                               onednn);
}

void check_signals() {
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

std::vector<int64_t> run(Engine& engine, const py::object& hidden, const py::object& offsets,
                         const py::object& positions, double threshold, int64_t max_iterations,
                         const py::object& out, const py::object& n_updates,
                         const py::object& remainders) {
    const Borrowed given[] = {{hidden, "hidden"},       {offsets, "offsets"},
                              {positions, "positions"}, {out, "out"},
                              {n_updates, "n_updates"}, {remainders, "remainders"}};
    Run all{given[0].view(),    given[1].view(), given[2].view(),
            {float(threshold)}, max_iterations,  given[3].view(),
            given[4].view(),    given[5].view(), {}};
    // Signal handlers run in the main thread alone; the others need not ask for the interpreter.
    const Python& python = Python::names();
    if (python.get_ident().equal(python.main_thread().attr("ident")))
        all.check_signals = &check_signals;
    const py::gil_scoped_release release;
    check(all, engine);
    return engine.run(all);
}

py::dict build_info() {
    py::dict info;
    info["instruction_set"] = cpu::instruction_set();
    info["compiler"] = AAF_COMPILER;
#if defined(AAF_CUDA)
    info["cuda"] = AAF_CUDA;
#else
    info["cuda"] = "";
#endif
    info["oldest_torch"] = AAF_OLDEST_TORCH;
    info["pybind11"] =
        PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
    return info;
}

// What the engine says of itself. It may have to wait for a run, which may in turn wait for the
// interpreter to look at signals: so without it.
template <class Value>
auto without_interpreter(Value (Engine::*property)() const) {
    return [property](const Engine& engine) {
        const py::gil_scoped_release release;
        return (engine.*property)();
    };
}

}  // namespace
}  // namespace albert_act_fast::binding

PYBIND11_MODULE(_cpp_ops, module) {
    using namespace albert_act_fast::binding;
    py::class_<Engine>(module, "Engine",
                       "An ALBERT-ACT layer's packed weights, and its iterations.")
        .def(py::init(&make_engine), py::arg("layer"), py::kw_only(), py::arg("int8"),
             py::arg("onednn"),
             "layer: an object with the fields of LayerWeights, whose tensors are copied. int8: "
             "products in int8. onednn: whether torch's oneDNN operators may be used.")
        .def("run", &run, py::kw_only(), py::arg("hidden"), py::arg("offsets"),
             py::arg("positions"), py::arg("threshold"), py::arg("max_iterations"), py::arg("out"),
             py::arg("n_updates"), py::arg("remainders"),
             "Iterates; see albert_act_fast.engine.loop.iterate. Returns how many rows each "
             "iteration computed. Raises ValueError for what does not fit.")
        .def_property_readonly("packed_bytes", without_interpreter(&Engine::packed_bytes))
        .def_property_readonly("workspace_bytes", without_interpreter(&Engine::workspace_bytes))
        .def_property_readonly(
            "seconds",
            [](const Engine& engine) {
                const albert_act_fast::engine::Seconds seconds =
                    without_interpreter(&Engine::seconds)(engine);
                py::dict parts;
                parts["products"] = seconds.products;
                parts["attention"] = seconds.attention;
                parts["other"] = seconds.other;
                return parts;
            },
            "Where the time of the last run went.");
    module.attr("HALTING_WORKSPACE_HEADER") = albert_act_fast::kHaltingWorkspaceHeader;
    module.attr("MAX_INT8_INPUTS") = albert_act_fast::engine::kMaxInt8Inputs;
    module.def("build_info", &build_info);
}

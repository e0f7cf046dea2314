// What Python imports: the engine, and what this library was built from and runs on. Importing it
// also registers the operators. Tensors are asked for their memory as Python would ask them, so
// that here, too, nothing depends on more of torch than its stable ABI.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "engine.h"

namespace py = pybind11;

namespace albert_act_fast::binding {
namespace {

// Keeps the tensor alive as long as its view is in use.
class Borrowed {
  public:
    Borrowed(const py::object& tensor, const char* name) : tensor_(tensor) {
        if (tensor.attr("device").attr("type").cast<std::string>() != "cpu")
            throw py::value_error(std::string(name) + ": expected a CPU tensor.");
        if (!tensor.attr("is_contiguous")().cast<bool>())
            throw py::value_error(std::string(name) + ": expected a contiguous tensor.");
        view_ = {reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>()),
                 dtype(py::str(tensor.attr("dtype")).cast<std::string>(), name),
                 tensor.attr("shape").cast<std::vector<int64_t>>()};
    }

    const View& view() const { return view_; }

  private:
    static ScalarType dtype(const std::string& type, const char* name) {
        if (type == "torch.float32") return ScalarType::Float;
        if (type == "torch.bfloat16") return ScalarType::BFloat16;
        if (type == "torch.int64") return ScalarType::Long;
        throw py::value_error(std::string(name) + ": got " + type +
                              ", expected float32, bfloat16 or int64.");
    }

    py::object tensor_;
    View view_;
};

// Checks that a tensor has the dtype and shape that the others ask for.
void expect(const char* name, const View& view, ScalarType dtype,
            const std::vector<int64_t>& shape) {
    if (view.dtype != dtype) throw py::value_error(std::string(name) + ": has another dtype.");
    if (view.shape == shape) return;
    const auto text = [](const std::vector<int64_t>& sizes) {
        return py::str(py::tuple(py::cast(sizes))).cast<std::string>();
    };
    throw py::value_error(std::string(name) + " has shape " + text(view.shape) + ", expected " +
                          text(shape) + ".");
}

Activation activation_named(const std::string& name) {
    static const std::pair<const char*, Activation> names[] = {{"gelu", Activation::gelu},
                                                               {"gelu_tanh", Activation::gelu_tanh},
                                                               {"relu", Activation::relu},
                                                               {"silu", Activation::silu}};
    for (const auto& [known, activation] : names)
        if (name == known) return activation;
    throw py::value_error("activation: got " + name + ", expected gelu, gelu_tanh, relu or silu.");
}

using Pair = std::array<py::object, 2>;

std::unique_ptr<Engine> engine(const Pair& key, const Pair& value, const Pair& query,
                               const Pair& dense, const Pair& ffn, const Pair& ffn_output,
                               const Pair& attention_norm, const Pair& output_norm,
                               const Pair& halting, const std::optional<py::object>& distances,
                               bool key_distances, double attention_eps, double output_eps,
                               int64_t heads, const std::string& activation, bool int8,
                               bool library) {
    std::vector<Borrowed> held;
    held.reserve(19);
    Layer layer;
    const Borrowed first(query[0], "query.weight");
    if (first.view().dtype == ScalarType::Long || first.view().shape.size() != 2)
        throw py::value_error("query.weight: expected a matrix in float32 or bfloat16.");
    const ScalarType dtype = first.view().dtype;
    const int64_t width = first.view().shape[0];
    const auto take = [&](const py::object& tensor, const std::string& name,
                          const std::vector<int64_t>& shape) {
        held.emplace_back(tensor, name.c_str());
        expect(name.c_str(), held.back().view(), dtype, shape);
        return held.back().view();
    };
    const auto linear = [&](const Pair& pair, const std::string& name, int64_t outputs,
                            int64_t inputs, View(&into)[2]) {
        into[0] = take(pair[0], name + ".weight", {outputs, inputs});
        into[1] = take(pair[1], name + ".bias", {outputs});
    };
    const int64_t inner = Borrowed(ffn[1], "ffn.bias").view().shape.at(0);
    linear(key, "key", width, width, layer.key);
    linear(value, "value", width, width, layer.value);
    linear(query, "query", width, width, layer.query);
    linear(dense, "dense", width, width, layer.dense);
    linear(ffn, "ffn", inner, width, layer.ffn);
    linear(ffn_output, "ffn_output", width, inner, layer.ffn_output);
    linear(halting, "halting", 1, width, layer.halting);
    for (const auto& [pair, name, into] :
         {std::tuple(&attention_norm, "attention_norm", &layer.attention_norm),
          std::tuple(&output_norm, "output_norm", &layer.output_norm)})
        for (int i = 0; i < 2; ++i) (*into)[i] = take((*pair)[i], name, {width});
    if (heads < 1 || width % heads != 0)
        throw py::value_error("heads: " + std::to_string(width) + " columns cannot be divided.");
    if (distances.has_value()) {
        const Borrowed table(*distances, "distance_embedding");
        layer.distance_embedding =
            take(*distances, "distance_embedding", {table.view().shape.at(0), width / heads});
    }
    layer.key_distances = key_distances;
    layer.attention_eps = attention_eps;
    layer.output_eps = output_eps;
    layer.heads = heads;
    layer.activation = activation_named(activation);
    const py::gil_scoped_release release;
    return make_engine(layer, int8 ? Weights::int8 : Weights::as_given, library);
}

std::vector<int64_t> run(Engine& engine, const py::object& hidden, const py::object& offsets,
                         const py::object& positions, double threshold, int64_t max_iterations,
                         const py::object& out, const py::object& n_updates,
                         const py::object& remainders) {
    const Borrowed given[] = {{hidden, "hidden"},       {offsets, "offsets"},
                              {positions, "positions"}, {out, "out"},
                              {n_updates, "n_updates"}, {remainders, "remainders"}};
    const Run all{given[0].view(), given[1].view(), given[2].view(), threshold,
                  max_iterations,  given[3].view(), given[4].view(), given[5].view()};
    const py::gil_scoped_release release;
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

}  // namespace
}  // namespace albert_act_fast::binding

PYBIND11_MODULE(_cpp_ops, module) {
    using namespace albert_act_fast::binding;
    py::class_<Engine>(module, "Engine",
                       "An ALBERT-ACT layer's packed weights, and its iterations.")
        .def(py::init(&engine), py::kw_only(), py::arg("key"), py::arg("value"), py::arg("query"),
             py::arg("dense"), py::arg("ffn"), py::arg("ffn_output"), py::arg("attention_norm"),
             py::arg("output_norm"), py::arg("halting"), py::arg("distance_embedding"),
             py::arg("key_distances"), py::arg("attention_eps"), py::arg("output_eps"),
             py::arg("heads"), py::arg("activation"), py::arg("int8"), py::arg("library"))
        .def("run", &run, py::kw_only(), py::arg("hidden"), py::arg("offsets"),
             py::arg("positions"), py::arg("threshold"), py::arg("max_iterations"), py::arg("out"),
             py::arg("n_updates"), py::arg("remainders"))
        .def_property_readonly("packed_bytes", &Engine::packed_bytes)
        .def_property_readonly("workspace_bytes", &Engine::workspace_bytes)
        .def_property_readonly(
            "seconds",
            [](const Engine& engine) {
                const Seconds seconds = engine.seconds();
                py::dict parts;
                parts["products"] = seconds.products;
                parts["attention"] = seconds.attention;
                parts["other"] = seconds.other;
                return parts;
            },
            "Where the time of the last run went.");
    module.def("build_info", &build_info);
}

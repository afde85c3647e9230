// Rows of a table, one for each sample's class; zeros for a sample without a class.
//
// Parameters:
//   dim    length of a row in vec4s
//   rows   of the table

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= params.dim) {
        return;
    }
    let label = labels[id.y];
    var v = vec4f();
    if (label < params.rows) {
        v = table[label * params.dim + id.x];
    }
    output[id.y * params.dim + id.x] = v;
}

//! One instance of a module, and what Open Policy Agent's
//! [binary interface](https://www.openpolicyagent.org/docs/wasm#wasm-module-exports) asks of its host.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;
use wasmtime::{
    Caller, Engine, Extern, ExternType, Func, Instance, Memory, Module, Store, StoreLimits, StoreLimitsBuilder,
    TypedFunc, Val, WasmParams, WasmResults,
};

use super::{
    builtins::{Builtins, Table},
    fault::{Fault, abort},
    ticker::Ticker,
    value,
};
use crate::json;

/// What instances are made of: a module that was found fit, and the data as its first instance has them in memory.
pub(super) struct Template {
    engine: Engine,
    module: Module,
    memory_limit: usize,
    image: Image,
    /// The rules that it answers, and by which number.
    entry_points: BTreeMap<String, i32>,
    builtins: Option<Arc<Table>>,
}

/// The heap as it is before an evaluation. Instances of one module put their heaps at the same place, so the data need to be parsed
/// only once.
#[derive(Default)]
struct Image {
    base: u32,
    data: i32,
    bytes: Box<[u8]>,
}

/// One instance. After an error it is not to be used again: the module's stack is as the error left it.
pub(super) struct Machine {
    store: Store<Host>,
    memory: Memory,
    heap: Heap,
    eval: Eval,
    data: i32,
    /// Where the heap goes on after the data.
    rest: u32,
    /// Of the memory, before the first evaluation.
    size: usize,
}

/// Reserved, entry point, data, input and its length, where the heap goes on, what to write.
type Eval = TypedFunc<(i32, i32, i32, i32, i32, i32, i32), i32>;

/// What the functions of the host get at.
struct Host {
    limits: StoreLimits,
    exchange: Option<Exchange>,
    builtins: Option<Builtins>,
}

/// How values come out of the module and into it.
#[derive(Clone)]
struct Exchange {
    malloc: TypedFunc<i32, i32>,
    dump: TypedFunc<i32, i32>,
    parse: TypedFunc<(i32, i32), i32>,
}

struct Heap {
    get: TypedFunc<(), i32>,
    set: TypedFunc<i32, ()>,
    malloc: TypedFunc<i32, i32>,
}

impl Template {
    /// Tries everything that an evaluation will need, and puts the data into the first instance.
    pub(super) fn load(
        engine: &Engine,
        module: &[u8],
        data: &str,
        memory_limit: usize,
        patience: Duration,
    ) -> Result<(Self, Machine), Fault> {
        let module = Module::new(engine, module).map_err(|error| Fault::unfit(error.root_cause()))?;
        check_imports(&module)?;
        let mut template = Self {
            engine: engine.clone(),
            module,
            memory_limit,
            image: Image::default(),
            entry_points: BTreeMap::new(),
            builtins: None,
        };
        let (mut machine, instance) = template.instantiate(patience)?;
        machine.check_version(&instance)?;
        let base = machine.rest;
        let builtins = machine.table(&instance, "builtins")?;
        if !builtins.is_empty() {
            let table = Arc::new(Table::new(&builtins)?);
            machine.connect(&instance, &table)?;
            template.builtins = Some(table);
        }
        template.entry_points = machine.table(&instance, "entrypoints")?;
        machine.load_data(&instance, base, data)?;
        let memory = machine.memory.data(&machine.store);
        let bytes = memory.get(base as usize..machine.rest as usize).ok_or(Fault::OutOfBounds)?.into();
        template.image = Image { base, data: machine.data, bytes };
        Ok((template, machine))
    }

    /// The rules that it answers, and by which number.
    pub(super) fn entry_points(&self) -> &BTreeMap<String, i32> {
        &self.entry_points
    }

    /// Another instance.
    pub(super) fn machine(&self, patience: Duration) -> Result<Machine, Fault> {
        let (mut machine, instance) = self.instantiate(patience)?;
        if let Some(table) = &self.builtins {
            machine.connect(&instance, table)?;
        }
        let Image { base, data, bytes } = &self.image;
        if machine.rest != *base {
            return Err(Fault::unfit("its heap begins at another place in each instance"));
        }
        // The module keeps account of how far its memory reaches, so it is the one to make room.
        machine.allocate(bytes.len())?;
        machine.write(*base, bytes)?;
        machine.data = *data;
        machine.rest =
            u32::try_from(bytes.len()).ok().and_then(|length| base.checked_add(length)).ok_or(Fault::OutOfBounds)?;
        machine.size = machine.memory.data_size(&machine.store);
        Ok(machine)
    }

    fn instantiate(&self, patience: Duration) -> Result<(Machine, Instance), Fault> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.memory_limit)
            .table_elements(MAX_TABLE_ELEMENTS)
            .instances(1)
            .memories(1)
            .tables(1)
            .build();
        let mut store = Store::new(&self.engine, Host { limits, exchange: None, builtins: None });
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(Ticker::ticks(patience));
        let ty = self.module.imports().find_map(|import| import.ty().memory().cloned());
        let ty = ty.ok_or_else(|| Fault::unfit("it imports no memory: build it with `opa build -t wasm`"))?;
        let memory = Memory::new(&mut store, ty).map_err(|_| {
            Fault::unfit("its memory begins larger than one instance may have: allow more `with_memory_limit`")
        })?;
        let imports: Vec<_> = self
            .module
            .imports()
            .map(|import| imported(&mut store, memory, import.name()))
            .collect::<Option<_>>()
            .ok_or_else(|| Fault::unfit("it imports something unknown"))?;
        let instance = Instance::new(&mut store, &self.module, &imports)?;
        let heap = Heap {
            get: function(&mut store, &instance, "opa_heap_ptr_get")?,
            set: function(&mut store, &instance, "opa_heap_ptr_set")?,
            malloc: function(&mut store, &instance, "opa_malloc")?,
        };
        let eval = function(&mut store, &instance, "opa_eval")?;
        let rest = heap.get.call(&mut store, ())?.cast_unsigned();
        let size = memory.data_size(&store);
        Ok((Machine { store, memory, heap, eval, data: 0, rest, size }, instance))
    }
}

impl Machine {
    /// Evaluates an entry point for an input document. `None` is undefined.
    pub(super) fn evaluate(&mut self, entry: i32, input: &[u8], left: Duration) -> Result<Option<Value>, Fault> {
        self.store.set_epoch_deadline(Ticker::ticks(left));
        // Whatever the last evaluation left on the heap is gone with this.
        self.heap.set.call(&mut self.store, self.rest.cast_signed())?;
        let (at, length) = self.place(input)?;
        let heap = self.heap.get.call(&mut self.store, ())?;
        let result = self.eval.call(&mut self.store, (0, entry, self.data, at, length, heap, AS_VALUE))?;
        // A set of at most one object. As JSON, the order of sets inside of it would be that of a hash table.
        match text(self.memory.data(&self.store), result, MAX_RESULT)? {
            b"set()" => Ok(None),
            [b'{', result @ .., b'}'] => {
                let members = json::object(result).or_else(|| value::object(std::str::from_utf8(result).ok()?));
                let mut members = members.ok_or(Fault::NoResult)?;
                let result = members.remove("result").ok_or(Fault::NoResult)?;
                if members.is_empty() { Ok(Some(result)) } else { Err(Fault::NoResult) }
            }
            _ => Err(Fault::NoResult),
        }
    }

    /// Whether evaluations made it larger than is worth keeping.
    pub(super) fn has_grown(&self) -> bool {
        self.memory.data_size(&self.store) > self.size.saturating_add(MAX_KEPT)
    }

    fn check_version(&mut self, instance: &Instance) -> Result<(), Fault> {
        let mut version = |name| match instance.get_global(&mut self.store, name)?.get(&mut self.store) {
            Val::I32(version) => Some(version),
            _ => None,
        };
        match (version("opa_wasm_abi_version"), version("opa_wasm_abi_minor_version")) {
            (Some(1), Some(minor)) if minor >= MIN_MINOR_VERSION => Ok(()),
            (Some(major), Some(minor)) => Err(Fault::Unfit(format!(
                "its binary interface is of version {major}.{minor}, and has to be 1.{MIN_MINOR_VERSION} or a later 1.x: build it with a newer `opa`"
            ))),
            _ => Err(Fault::unfit(
                "it does not say of which version its binary interface is: build it with `opa build -t wasm`",
            )),
        }
    }

    /// What the module says of itself: names and numbers.
    fn table(&mut self, instance: &Instance, name: &str) -> Result<BTreeMap<String, i32>, Fault> {
        let make: TypedFunc<(), i32> = function(&mut self.store, instance, name)?;
        let dump: TypedFunc<i32, i32> = function(&mut self.store, instance, "opa_json_dump")?;
        let table = make.call(&mut self.store, ())?;
        let at = dump.call(&mut self.store, table)?;
        let text = text(self.memory.data(&self.store), at, MAX_TABLE)?;
        serde_json::from_slice(text).map_err(|_| Fault::Unfit(format!("what `{name}` gives is no table")))
    }

    fn connect(&mut self, instance: &Instance, table: &Arc<Table>) -> Result<(), Fault> {
        let exchange = Exchange {
            malloc: self.heap.malloc.clone(),
            dump: function(&mut self.store, instance, "opa_value_dump")?,
            parse: function(&mut self.store, instance, "opa_value_parse")?,
        };
        let functions = table.connect()?;
        let host = self.store.data_mut();
        host.exchange = Some(exchange);
        host.builtins = Some(functions);
        Ok(())
    }

    fn load_data(&mut self, instance: &Instance, base: u32, data: &str) -> Result<(), Fault> {
        let parse: TypedFunc<(i32, i32), i32> = function(&mut self.store, instance, "opa_json_parse")?;
        self.heap.set.call(&mut self.store, base.cast_signed())?;
        let (at, length) = self.place(data.as_bytes())?;
        self.data = parse.call(&mut self.store, (at, length))?;
        if self.data == 0 {
            return Err(Fault::unfit("it cannot read the data"));
        }
        self.rest = self.heap.get.call(&mut self.store, ())?.cast_unsigned();
        self.size = self.memory.data_size(&self.store);
        Ok(())
    }

    /// Puts bytes on the heap. Gives where, and how many.
    fn place(&mut self, bytes: &[u8]) -> Result<(i32, i32), Fault> {
        let at = self.allocate(bytes.len())?;
        self.write(at.cast_unsigned(), bytes)?;
        Ok((at, i32::try_from(bytes.len()).map_err(|_| Fault::OutOfBounds)?))
    }

    fn allocate(&mut self, length: usize) -> Result<i32, Fault> {
        let length = i32::try_from(length).map_err(|_| Fault::OutOfBounds)?;
        Ok(self.heap.malloc.call(&mut self.store, length)?)
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.memory.write(&mut self.store, at as usize, bytes).map_err(|_| Fault::OutOfBounds)
    }
}

/// What a module may import, and nothing else.
fn check_imports(module: &Module) -> Result<(), Fault> {
    let is_known = |import: &wasmtime::ImportType<'_>| {
        import.module() == "env"
            && match import.ty() {
                ExternType::Memory(ty) => import.name() == "memory" && !ty.is_64() && !ty.is_shared(),
                ExternType::Func(_) => FUNCTIONS.contains(&import.name()),
                _ => false,
            }
    };
    let unknown: Vec<_> = module
        .imports()
        .filter(|import| !is_known(import))
        .map(|import| format!("`{}.{}`", shown(import.module()), shown(import.name())))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Fault::Unfit(format!("it imports what a policy does not need: {}", unknown.join(", "))))
}

fn imported(store: &mut Store<Host>, memory: Memory, name: &str) -> Option<Extern> {
    let function = match name {
        "memory" => return Some(memory.into()),
        "opa_abort" => Func::wrap(store, move |caller: Caller<'_, Host>, message: i32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(abort(text(memory.data(&caller), message, MAX_RESULT).unwrap_or_default())))
        }),
        // What a policy prints can be what a request brought.
        "opa_println" => Func::wrap(store, |_: i32| {}),
        "opa_builtin0" => {
            Func::wrap(store, move |caller: Caller<'_, Host>, id: i32, _: i32| call(caller, memory, id, []))
        }
        "opa_builtin1" => {
            Func::wrap(store, move |caller: Caller<'_, Host>, id: i32, _: i32, a: i32| call(caller, memory, id, [a]))
        }
        "opa_builtin2" => Func::wrap(store, move |caller: Caller<'_, Host>, id: i32, _: i32, a: i32, b: i32| {
            call(caller, memory, id, [a, b])
        }),
        "opa_builtin3" => {
            Func::wrap(store, move |caller: Caller<'_, Host>, id: i32, _: i32, a: i32, b: i32, c: i32| {
                call(caller, memory, id, [a, b, c])
            })
        }
        "opa_builtin4" => {
            Func::wrap(store, move |caller: Caller<'_, Host>, id: i32, _: i32, a: i32, b: i32, c: i32, d: i32| {
                call(caller, memory, id, [a, b, c, d])
            })
        }
        _ => return None,
    };
    Some(function.into())
}

/// Calls a built-in function of the host. Its values cross the border as text.
fn call<const N: usize>(
    mut caller: Caller<'_, Host>,
    memory: Memory,
    id: i32,
    values: [i32; N],
) -> wasmtime::Result<i32> {
    let host = caller.data_mut();
    let (Some(exchange), Some(mut builtins)) = (host.exchange.clone(), host.builtins.take()) else {
        return Err(wasmtime::Error::new(Fault::Builtin("a function that it did not declare".to_owned())));
    };
    let mut arguments = Vec::with_capacity(N);
    for value in values {
        let at = exchange.dump.call(&mut caller, value)?;
        let text = text(memory.data(&caller), at, MAX_ARGUMENT).map_err(wasmtime::Error::new)?;
        arguments.push(String::from_utf8(text.to_vec()).map_err(|_| Fault::NoResult)?);
    }
    let result = builtins.call(id, &arguments).map_err(wasmtime::Error::new)?;
    let length = i32::try_from(result.len()).map_err(|_| Fault::OutOfBounds)?;
    let at = exchange.malloc.call(&mut caller, length)?;
    memory.write(&mut caller, at.cast_unsigned() as usize, result.as_bytes()).map_err(|_| Fault::OutOfBounds)?;
    let value = exchange.parse.call(&mut caller, (at, length))?;
    caller.data_mut().builtins = Some(builtins);
    Ok(value)
}

fn function<P: WasmParams, R: WasmResults>(
    store: &mut Store<Host>,
    instance: &Instance,
    name: &str,
) -> Result<TypedFunc<P, R>, Fault> {
    instance.get_typed_func(store, name).map_err(|_| {
        Fault::Unfit(format!("it has no function `{name}` as a policy has it: build it with `opa build -t wasm`"))
    })
}

/// A text that ends with a zero byte.
fn text(memory: &[u8], at: i32, limit: usize) -> Result<&[u8], Fault> {
    let rest = memory.get(at.cast_unsigned() as usize..).ok_or(Fault::OutOfBounds)?;
    match rest.iter().take(limit.saturating_add(1)).position(|byte| *byte == 0) {
        Some(length) => rest.get(..length).ok_or(Fault::OutOfBounds),
        None if rest.len() > limit => Err(Fault::TooLong(limit)),
        None => Err(Fault::OutOfBounds),
    }
}

/// A name of the module's, as an error may show it.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

const FUNCTIONS: [&str; 7] =
    ["opa_abort", "opa_println", "opa_builtin0", "opa_builtin1", "opa_builtin2", "opa_builtin3", "opa_builtin4"];

/// The first one that has `opa_eval`.
const MIN_MINOR_VERSION: i32 = 2;

/// What `opa_eval` is to write: its own notation, and not JSON.
const AS_VALUE: i32 = 1;

const MAX_TABLE_ELEMENTS: usize = 1 << 20;

/// Of names that a module lists.
const MAX_TABLE: usize = 1 << 20;

/// As much as a server may answer to `policy::Opa`.
pub(super) const MAX_RESULT: usize = 64 << 10;
const MAX_ARGUMENT: usize = 1 << 20;

/// What an instance may have grown by and still serve on.
const MAX_KEPT: usize = 4 << 20;

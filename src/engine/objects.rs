//! Objects: which start has a part in one, whose turn it is, and what operators see and write.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::catalog::{Catalog, Deployment};
use super::{Engine, Error, IfClosed, IfRunning, Namespace, Start, Status};
use crate::machine::{
    Message, MessageKind, ObjectName, Run, RunId, RunKind, Shard, State, too_large, weight,
};
use crate::protocol;
use crate::store::{self, ListedObject, NewPart, Object, ObjectPlace, Written};

/// An object as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectView {
    /// The function that it is of.
    pub function: String,
    /// Its key.
    pub key: String,
    /// Its fields.
    pub state: State,
    /// What identifies this state.
    pub version: String,
    /// The run that has it.
    pub holder: Option<RunId>,
    /// How many runs wait for it.
    pub waiting: i64,
}

/// What a new run is to objects.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// To the one of its key.
    pub(super) object: Option<NewPart>,
    /// Those that it has to itself, and where they are.
    pub(super) locks: Vec<(ObjectName, ObjectPlace)>,
}

/// Sets a run up with what it was read with of its object.
pub(super) fn equip(run: &mut Run, object: Option<Object>) {
    match object {
        None => {}
        Some(Object::Behind(holder)) => run.behind = Some(holder),
        Some(Object::Held(state) | Object::Read(state)) => run.published = Arc::new(state),
    }
}

impl Engine {
    /// What a new run is to an object, if it is of one. Refused is what has no meaning there.
    pub(super) fn part_of(
        catalog: &Catalog,
        start: &Start,
        deployment: &Deployment,
        kind: RunKind,
    ) -> Result<Option<NewPart>, Error> {
        if !kind.has_object() {
            return Ok(None);
        }
        let refused = |field: &str, detail: &str| {
            Err(Error::Invalid(field.to_owned(), format!("`{}` {detail}", start.function)))
        };
        if start.key.is_none() {
            return refused(
                "/key",
                "is an object: a run of it needs a key, which says of which one",
            );
        }
        if start.if_running != IfRunning::Fail || start.if_closed != IfClosed::Allow {
            return refused(
                "/if_running",
                "is an object: its runs wait for their turn, so `if_running` and `if_closed` have \
                 no meaning",
            );
        }
        if kind == RunKind::Reader {
            let object = deployment.reads(&start.function).unwrap_or_default();
            let function = known(catalog, start.namespace.id, object);
            let function = function.ok_or_else(|| Error::FunctionNotFound(object.to_owned()))?;
            return Ok(Some(NewPart::Reads(function)));
        }
        if start.start_at.is_some() {
            return refused(
                "/start_at",
                "is an object: its runs have their turns in the order in which they were started, \
                 so `delay` and `start_at` have no meaning",
            );
        }
        Ok(Some(NewPart::Has))
    }

    /// The objects that a new run has to itself, as its function says and its input names them.
    pub(super) fn locks_of(
        catalog: &Catalog,
        start: &Start,
        deployment: &Deployment,
    ) -> Result<Vec<(ObjectName, ObjectPlace)>, Error> {
        let specs = deployment.locks(&start.function);
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        if start.start_at.is_some() {
            let detail = format!(
                "`{}` locks objects: its runs have their turns in the order in which they were \
                 started, so `delay` and `start_at` have no meaning",
                start.function
            );
            return Err(Error::Invalid("/start_at".to_owned(), detail));
        }
        let named = protocol::LockSpec::objects(specs, &start.input);
        let named = named.map_err(|detail| Error::Invalid("/input".to_owned(), detail))?;
        let ns = &start.namespace;
        placed(catalog, (ns.id, &ns.name), named)
    }

    /// What an ended run is to its objects when it is rewound.
    pub(super) fn part_again(&self, run: &Run) -> Result<Parts, Error> {
        if !run.staged.is_empty() {
            let detail = "what it had changed of its objects was dropped when it ended, and its \
                          steps will not change it again; start it anew";
            let status = Status::Failed;
            return Err(Error::InvalidState { run: run.id, status, detail: detail.to_owned() });
        }
        let catalog = self.catalog();
        let object = match run.created.kind {
            RunKind::Function | RunKind::Plain => None,
            RunKind::Object => Some(NewPart::Has),
            RunKind::Reader => {
                let deployment = catalog.deployment_for(run).map(|(_, d)| d);
                let name = &run.created.function;
                let object = deployment.as_ref().and_then(|d| d.reads(name)).unwrap_or_default();
                let function = known(&catalog, run.ns, object);
                let function =
                    function.ok_or_else(|| Error::FunctionNotFound(object.to_owned()))?;
                Some(NewPart::Reads(function))
            }
        };
        let (ns, named) = (run.ns, run.created.locks.clone());
        Ok(Parts { object, locks: placed(&catalog, (ns, &run.created.namespace), named)? })
    }

    /// It is the turn of these runs: they come into memory with the state of their object.
    pub(super) fn have_turns(&self, runs: Vec<RunId>) {
        let mut owner = self.owner();
        for run in runs {
            if owner.runs.contains_key(&run) {
                self.may_have_turn(run);
            } else {
                self.bring_in(&mut owner, [run]);
            }
        }
    }

    /// What says that a run is there may say that its turn has come.
    pub(super) fn hear_of_turn(&self, run: &Run, messages: &[Message]) {
        if run.behind.is_some() && messages.iter().any(|m| m.kind == MessageKind::New) {
            self.may_have_turn(run.id);
        }
    }

    /// A run that is in memory and waits for its object is read again.
    pub(super) fn may_have_turn(&self, run: RunId) {
        let engine = self.clone();
        self.spawn(async move { engine.read_in(vec![run]).await });
    }

    // --- operators -----------------------------------------------------------------------------

    async fn object_function(&self, ns: &Namespace, name: &str) -> Result<i32, Error> {
        let catalog = self.fresh_catalog().await?;
        with_objects(&catalog, ns.id, name)
    }

    /// An object as it stands.
    pub async fn object(
        &self,
        ns: &Namespace,
        function: &str,
        key: &str,
    ) -> Result<ObjectView, Error> {
        let id = self.object_function(ns, function).await?;
        let shard = Shard::of_key(&ns.name, function, key);
        let row = self.store().object(ns.id, id, shard, key).await?;
        let version = store::version_of(&row.state);
        let (function, key) = (function.to_owned(), key.to_owned());
        Ok(ObjectView {
            function,
            key,
            state: row.state,
            version,
            holder: row.holder,
            waiting: row.waiting,
        })
    }

    /// Objects of a function that have a state, by key.
    pub async fn objects(
        &self,
        ns: &Namespace,
        function: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ListedObject>, Error> {
        let id = self.object_function(ns, function).await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(self.store().list_objects(ns.id, id, after, limit).await?)
    }

    /// Replaces the state of an object that no run has, if it is at one of these versions; none: at
    /// any.
    pub async fn write_object(
        &self,
        ns: &Namespace,
        function: &str,
        key: &str,
        fields: BTreeMap<String, Box<RawValue>>,
        versions: Option<&[String]>,
        by: &str,
    ) -> Result<ObjectView, Error> {
        self.admit()?;
        let id = self.object_function(ns, function).await?;
        let state: State = fields
            .into_iter()
            .map(|(field, value)| (field, bytes::Bytes::from(value.get().to_owned())))
            .collect();
        for (field, value) in &state {
            let refused = |detail| Err(Error::Invalid("/state".to_owned(), detail));
            if let Err(detail) = protocol::valid_name(field) {
                return refused(format!("a field's name: {detail}"));
            }
            if protocol::too_deep(value) {
                return refused(format!("`{field}` is nested too deep"));
            }
        }
        let bytes = weight(state.iter().map(|(field, value)| (field.as_str(), value)));
        if let Some(why) = too_large(state.len(), bytes, self.limits()) {
            return Err(Error::Invalid("/state".to_owned(), format!("the state would have {why}")));
        }
        let shard = Shard::of_key(&ns.name, function, key);
        let fits = |now: &State| versions.is_none_or(|any| any.contains(&store::version_of(now)));
        match self.store().write_object(ns.id, id, shard, key, &state, fits).await? {
            Written::Done => {}
            Written::Busy(run) => return Err(Error::ObjectBusy { run, key: key.to_owned() }),
            Written::Changed => return Err(Error::ObjectChanged),
        }
        tracing::info!(function, key, by, fields = state.len(), "object written by hand");
        self.object(ns, function, key).await
    }
}

/// The number of a function that has objects.
fn with_objects(catalog: &Catalog, ns: i32, name: &str) -> Result<i32, Error> {
    let id = known(catalog, ns, name);
    let id = id.ok_or_else(|| Error::FunctionNotFound(name.to_owned()))?;
    let hosted = catalog.function(ns, name).and_then(|f| catalog.deployment(f.dep));
    // Objects outlive the endpoints that host their function.
    match hosted.and_then(|d| d.kind_of(name)) {
        None | Some(RunKind::Object) => Ok(id),
        Some(_) => Err(Error::NotAnObject(name.to_owned())),
    }
}

/// Where objects of a namespace are, by its number and its name.
fn placed(
    catalog: &Catalog,
    (ns, name): (i32, &str),
    named: Vec<ObjectName>,
) -> Result<Vec<(ObjectName, ObjectPlace)>, Error> {
    let place = |object: ObjectName| {
        let function = with_objects(catalog, ns, &object.function)?;
        let shard = Shard::of_key(name, &object.function, &object.key).column();
        let place = (shard, ns, function, object.key.clone());
        Ok((object, place))
    };
    named.into_iter().map(place).collect()
}

/// The number of a function that was ever registered.
fn known(catalog: &Catalog, ns: i32, name: &str) -> Option<i32> {
    catalog.recorded.functions.iter().find(|f| f.ns == ns && f.name == name).map(|f| f.id)
}

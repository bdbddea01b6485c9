//! Reading from members of which each that is up to date has everything.
//!
//! Whatever was told as created is in every current member that nothing waits for; so one such answer says all there is. All are asked
//! nevertheless, for another writer may have reached only some; but none is waited for long whose answer is not needed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Mirrored, Phase, Shared, Standing};
use crate::error::{Error, Kind, Result};
use crate::store::{Created, ObjectInfo, Part, Store};

/// How long an answer is waited for that is not needed.
const GRACE: Duration = Duration::from_secs(5);

impl Mirrored {
    /// The members to ask, each with whether something waits for it: those at the end.
    pub(super) fn candidates(&self) -> Result<Vec<(usize, bool)>> {
        let state = self.shared.state();
        state.check_fenced()?;
        let mut members: Vec<(usize, bool)> = match &state.phase {
            Phase::Meeting(members) => members.iter().map(|member| (*member, false)).collect(),
            Phase::Apart | Phase::Begun => (0..self.shared.stores.len())
                .filter(|member| state.table.standing(*member) == Standing::Current)
                .map(|member| (member, state.table.is_lagging(member)))
                .collect(),
        };
        members.sort_by_key(|(_, is_lagging)| *is_lagging);
        Ok(members)
    }

    /// How many have to say that there is nothing: as many as have to have what is created. Before there are so many
    /// nothing is.
    fn needed(&self) -> usize {
        let state = self.shared.state();
        match &state.phase {
            Phase::Meeting(members) => members.len(),
            Phase::Begun if state.table.were_enough() => self.shared.acks,
            Phase::Apart | Phase::Begun => state.table.count_current(),
        }
    }

    pub(super) fn too_few(&self, count: usize) -> Error {
        let all = self.shared.stores.len();
        Error::new(Kind::StoreUnreachable, format!("only {count} of {all} stores answer and have everything"))
            .hint("are they reachable? the archiver goes on as soon as they are")
    }

    /// What the first has that has it. That there is none is said by as many as have to have what was created.
    pub(super) async fn find<T, F>(&self, ask: impl Fn(usize) -> Option<F>) -> Result<Option<T>>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let needed = self.needed();
        let (mut absent, mut is_sure, mut away) = (0, false, None);
        for (member, is_lagging) in self.candidates()? {
            let Some(answer) = ask(member) else { continue };
            match self.wait(answer, absent >= needed && is_sure).await {
                None => {}
                Some(Ok(Some(found))) => return Ok(Some(found)),
                Some(Ok(None)) => {
                    absent += 1;
                    is_sure |= !is_lagging;
                }
                Some(Err(error)) if error.kind() == Kind::StoreUnreachable => drop(away.get_or_insert(error)),
                Some(Err(error)) => return Err(error),
            }
        }
        if absent >= needed && is_sure { Ok(None) } else { Err(away.unwrap_or_else(|| self.too_few(absent))) }
    }

    /// What all tell that answer, one at least of those that have everything.
    pub(super) async fn gather<T, F>(&self, ask: impl Fn(usize) -> Option<F>) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let all = matches!(self.phase(), Phase::Meeting(_));
        let (mut answers, mut is_sure, mut away) = (Vec::new(), false, None);
        for (member, is_lagging) in self.candidates()? {
            let Some(answer) = ask(member) else { continue };
            match self.wait(answer, !all && is_sure && is_lagging).await {
                None => {}
                Some(Ok(answer)) => {
                    answers.push(answer);
                    is_sure |= !is_lagging;
                }
                Some(Err(error)) if error.kind() == Kind::StoreUnreachable && !all => {
                    away.get_or_insert(error);
                }
                Some(Err(error)) => return Err(error),
            }
        }
        if is_sure { Ok(answers) } else { Err(away.unwrap_or_else(|| self.too_few(answers.len()))) }
    }

    /// `None` for an answer that is not needed and does not come soon.
    async fn wait<T>(&self, answer: impl Future<Output = T>, is_enough: bool) -> Option<T> {
        if is_enough { tokio::time::timeout(GRACE, answer).await.ok() } else { Some(answer.await) }
    }
}

/// One of the members, for reading. One that is behind has nothing to tell: what it lacks others have, and what it has they
/// have, too.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) member: usize,
}

impl Reader {
    fn is_passed_over(&self) -> bool {
        let state = self.shared.state();
        state.phase == Phase::Begun && state.table.standing(self.member) != Standing::Current
    }

    fn store(&self) -> Result<&Arc<dyn Store>> {
        self.shared.stores.get(self.member).ok_or_else(|| Error::failure("there is no such store"))
    }

    /// An answer, unless the member is passed over while it is waited for.
    async fn read<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = self.shared.state().phase == Phase::Begun;
        let passed_over = async {
            if !begun {
                std::future::pending::<()>().await;
            }
            self.shared.until(|state| state.table.standing(self.member) != Standing::Current).await;
        };
        tokio::select! {
            answer = answer => answer,
            () = passed_over => Err(Error::new(
                Kind::StoreUnreachable,
                format!("store {} does not answer", self.location()),
            )),
        }
    }
}

#[async_trait]
impl Store for Reader {
    async fn create(&self, _: &str, _: Vec<Bytes>) -> Result<Created> {
        Err(Error::failure("what several stores hold is not created in one of them"))
    }

    async fn get(&self, name: &str, part: Part) -> Result<Option<Bytes>> {
        if self.is_passed_over() {
            return Ok(None);
        }
        self.read(self.store()?.get(name, part)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        shallow: bool,
        each: &mut (dyn FnMut(ObjectInfo) + Send),
    ) -> Result<()> {
        if self.is_passed_over() {
            return Ok(());
        }
        self.read(self.store()?.list(prefix, after, shallow, each)).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        if self.is_passed_over() {
            return Ok(Vec::new());
        }
        self.read(self.store()?.folders(prefix)).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        if self.is_passed_over() {
            return Ok(None);
        }
        self.read(self.store()?.head(name)).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.store()?.delete(name).await
    }

    fn location(&self) -> String {
        self.shared.place(self.member)
    }
}

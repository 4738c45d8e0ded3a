"""The labels of the face layout: mask, gender and age group of people, and their age in years."""

from data.tasks import Task, Tasks

MASKS = ("worn", "wrong", "bare")
GENDERS = ("male", "female")
AGE_GROUPS = ("<30", "30-59", ">=60")
AGE_BOUNDS = (30, 60)  # years at which the second and the third age group begin
MAX_AGE = 120
# File stems and the label of each; how many images a person has does not matter.
SHOTS = {**{f"mask{i}": "worn" for i in range(1, 6)}, "incorrect_mask": "wrong", "normal": "bare"}
MAIN_CLASSES = tuple(f"{mask} {gender} {group}" for mask in MASKS for gender in GENDERS for group in AGE_GROUPS)

MASK, GENDER = Task("mask", "mask", MASKS), Task("gender", "gender", GENDERS, of_group=True)
AGE_GROUP = Task("ageg", "age group", AGE_GROUPS, of_group=True)
MAIN = Task("main", "mask, gender and age group", MAIN_CLASSES, parts=(MASK, GENDER, AGE_GROUP))
AGE = Task("age", "age in years", AGE_GROUPS, bounds=AGE_BOUNDS, ranges=AGE_GROUP, of_group=True)
FACES = Tasks(MAIN, MASK, GENDER, AGE_GROUP, AGE)


class FaceTask:
    """Base of the records that have the name of a task of faces, `task`."""

    @property
    def tasks(self) -> Tasks:
        """Return the tasks of the labels."""
        return FACES

    @property
    def record(self) -> Task:
        """Return the named task."""
        return self.tasks[self.task]
